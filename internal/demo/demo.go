// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sotto/internal/capture"
	"sotto/internal/netlab"
)

// Options configures Run. Stdout and Self are required.
type Options struct {
	Stdout io.Writer // where the report goes
	Self   string    // path of the sotto binary

	// Client is the DNS client and its first arguments. If empty, it is dig, or
	// `sotto demo ask` (see Ask) if dig is not installed.
	Client []string
}

// questions returns the queries of each phase as arguments for dig: over UDP and TCP,
// over IPv4 and IPv6, to three nameservers.
func questions(ipv6 bool) []string {
	q := []string{
		"www.example.com", "A", "@8.8.8.8",
		"www.example.com", "TXT", "@1.1.1.1", "+tcp",
	}
	if ipv6 {
		q = append(q, "www.example.com", "AAAA", "@2001:db8::53")
	}
	return q
}

// nameservers returns the addresses that questions queries.
func nameservers(questions []string) []netip.Addr {
	var out []netip.Addr
	for _, q := range questions {
		if addr, ok := strings.CutPrefix(q, "@"); ok {
			out = append(out, netip.MustParseAddr(addr))
		}
	}
	return out
}

const (
	queriedName  = "example.com" // must not be readable on the wire when sealed
	upstreamAddr = "198.51.100.53"
	upstreamName = "dns.example"

	// phaseTimeout limits each phase. Sealing takes well under a second, but a busy
	// machine may need longer.
	phaseTimeout = 3 * time.Minute
)

// phase is one of the two runs: unsealed, then sealed.
type phase struct {
	command []string // as a user would type it
	output  string
	answers answers
	packets []capture.Packet
}

// Run runs the demo and prints the report. It returns an error if a step failed or if
// a plain packet was captured in the sealed phase. It removes everything that it
// created before it returns.
func Run(ctx context.Context, opts Options) (err error) {
	client := opts.Client
	if len(client) == 0 {
		if client = []string{"dig"}; !installed("dig") {
			client = []string{opts.Self, "demo", "ask"}
		}
	}
	dir, err := os.MkdirTemp("", "sotto-demo-")
	if err != nil {
		return fmt.Errorf("create a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l, err := netlab.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	host, lan, err := l.LAN()
	if err != nil {
		return err
	}
	queries := questions(netlab.HasIPv6())
	plainServers := nameservers(queries)
	servers, err := serve(ctx, lan, plainServers, filepath.Join(dir, "ca.pem"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.stop()) }()

	ask := append(append([]string{}, client...), "+noall", "+answer", "+stats")
	ask = append(ask, queries...)
	seal := []string{opts.Self, "exec", "--upstream", upstreamAddr + "#" + upstreamName, "--ca-file", "ca.pem", "--"}
	p := printer{w: opts.Stdout, self: opts.Self}
	p.intro(plainServers)

	p.heading("1. Unsealed:")
	before, err := runPhase(ctx, host, lan, dir, ask)
	p.phase(before)
	if err != nil {
		return errors.Join(fmt.Errorf("query unsealed: %w", err), p.err)
	}
	p.heading("2. Sealed: the same command, run by sotto exec:")
	after, err := runPhase(ctx, host, lan, dir, append(seal, ask...))
	p.phase(after)
	if err != nil {
		return errors.Join(fmt.Errorf("query sealed: %w", err), p.err)
	}
	p.heading("3. Packets captured on the link:")
	p.sideBySide(before.packets, after.packets)
	if err := verify(before, after, len(plainServers)); err != nil {
		return errors.Join(err, p.err)
	}
	p.result(before)
	return p.err
}

// installed reports whether a program is in PATH.
func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// runPhase runs a command on the host. It captures the LAN's end of the link from before
// the command starts until after it exits.
func runPhase(ctx context.Context, host, lan *netlab.Host, dir string, command []string) (phase, error) {
	ph := phase{command: command}
	ctx, cancel := context.WithTimeout(ctx, phaseTimeout)
	defer cancel()
	packets, err := capture.Start(lan.NS, netlab.LANIf)
	if err != nil {
		return ph, err
	}
	cmd := host.Command(ctx, nil, command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir) // no .digrc
	// If cancelled, the command removes its seal before it exits.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	var stopErr error
	ph.packets, stopErr = packets.Stop()
	ph.output = strings.TrimSpace(string(out))
	ph.answers = parseAnswers(ph.output)
	return ph, errors.Join(err, stopErr)
}

// verify checks both phases. The unsealed phase must contain plain DNS: otherwise the
// capture would prove nothing.
func verify(before, after phase, queries int) error {
	if n := len(before.answers.servers); n != queries || len(before.answers.records) < queries {
		return fmt.Errorf("unsealed: got %d answers, want %d", n, queries)
	}
	if len(capture.Plain(before.packets, queriedName)) == 0 {
		return errors.New("unsealed: no plain DNS captured, so the capture does not work")
	}
	if plain := capture.Plain(after.packets, queriedName); len(plain) > 0 {
		return fmt.Errorf("NOT SEALED: %d plain packets captured, the first: %s", len(plain), plain[0])
	}
	if len(tlsRecords(after.packets)) == 0 {
		return errors.New("sealed: no TLS captured, so no upstream was queried")
	}
	if diff := before.answers.diff(after.answers); diff != "" {
		return fmt.Errorf("NOT TRANSPARENT: the sealed answers differ: %s", diff)
	}
	return nil
}

// tlsRecords returns the packets to or from port 853 that start with a TLS record.
func tlsRecords(packets []capture.Packet) []capture.Packet {
	var out []capture.Packet
	for _, p := range capture.Port(packets, 853) {
		if p.Record != 0 {
			out = append(out, p)
		}
	}
	return out
}
