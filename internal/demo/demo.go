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

// Options say what to run and where to print. Stdout and Self are required.
type Options struct {
	Stdout io.Writer // where the report goes
	Self   string    // path of the sotto binary

	// Client is the program that asks, with its first arguments. Empty means
	// dig, and `sotto demo ask` (see Ask) where there is no dig.
	Client []string
}

// questions returns what is asked each time, in dig's words: over UDP and TCP,
// over IPv4 and IPv6, of three nameservers.
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

// nameservers returns the addresses that are asked.
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
	secret       = "example.com" // what must not be read on the wire
	upstreamAddr = "198.51.100.53"
	upstreamName = "dns.example"

	// patience bounds each half. Sealing takes well under a second; a machine
	// that is busy elsewhere may take a while.
	patience = 60 * time.Second
)

// half is one of the two runs.
type half struct {
	command []string // as a user would type it
	output  string
	answers answers
	packets []capture.Packet
}

// Run plays the scenario and prints it. The error says that something did not
// work or, worse, that a plain packet was seen in the sealed half. All it made
// is gone when it returns.
func Run(ctx context.Context, opts Options) (err error) {
	client := opts.Client
	if len(client) == 0 {
		if client = []string{"dig"}; !installed("dig") {
			client = []string{opts.Self, "demo", "ask"}
		}
	}
	dir, err := os.MkdirTemp("", "sotto-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
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
	asking := questions(netlab.HasIPv6())
	asked := nameservers(asking)
	servers, err := serve(ctx, lan, asked, filepath.Join(dir, "ca.pem"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.stop()) }()

	ask := append(append([]string{}, client...), "+noall", "+answer", "+stats")
	ask = append(ask, asking...)
	seal := []string{opts.Self, "exec", "--upstream", upstreamAddr + "#" + upstreamName, "--ca-file", "ca.pem", "--"}
	p := printer{w: opts.Stdout, self: opts.Self}
	p.intro(asked)

	p.headline("1. Unsealed:")
	before, err := run(ctx, host, lan, dir, ask)
	p.half(before)
	if err != nil {
		return errors.Join(fmt.Errorf("ask unsealed: %w", err), p.err)
	}
	p.headline("2. Sealed, the same command under sotto exec:")
	after, err := run(ctx, host, lan, dir, append(seal, ask...))
	p.half(after)
	if err != nil {
		return errors.Join(fmt.Errorf("ask sealed: %w", err), p.err)
	}
	p.headline("What crossed the wire:")
	p.sideBySide(before.packets, after.packets)
	if err := judge(before, after, len(asked)); err != nil {
		return errors.Join(err, p.err)
	}
	p.verdict(before, after)
	return p.err
}

// installed tells whether a program is in PATH.
func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// run runs a command on the host and captures the LAN's end of the wire from
// before its start until after its end.
func run(ctx context.Context, host, lan *netlab.Host, dir string, command []string) (half, error) {
	h := half{command: command}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	wire, err := capture.Start(lan.NS, netlab.LANIf)
	if err != nil {
		return h, err
	}
	cmd := host.Command(ctx, nil, command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir) // nobody's .digrc
	// On cancel the command takes its seal away before it ends.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	var stopErr error
	h.packets, stopErr = wire.Stop()
	h.output = strings.TrimSpace(string(out))
	h.answers = parseAnswers(h.output)
	return h, errors.Join(err, stopErr)
}

// judge compares the halves. It is strict in both directions: a first half
// that showed nothing in the clear would prove nothing.
func judge(before, after half, asked int) error {
	if n := len(before.answers.servers); n != asked || len(before.answers.records) < asked {
		return fmt.Errorf("the unsealed half got %d answers, want %d", n, asked)
	}
	if len(capture.Plain(before.packets, secret)) == 0 {
		return errors.New("the unsealed half put nothing on the wire in the clear: the capture sees nothing")
	}
	if plain := capture.Plain(after.packets, secret); len(plain) > 0 {
		return fmt.Errorf("NOT SEALED: %d plain packets crossed the wire, the first one: %s", len(plain), plain[0])
	}
	if len(records(after.packets)) == 0 {
		return errors.New("the sealed half put no TLS on the wire: nobody was asked")
	}
	if diff := before.answers.differs(after.answers); diff != "" {
		return fmt.Errorf("NOT TRANSPARENT: the sealed half got another answer: %s", diff)
	}
	return nil
}

// records returns the packets that begin with a TLS record of the upstream's.
func records(packets []capture.Packet) []capture.Packet {
	var out []capture.Packet
	for _, p := range capture.Port(packets, 853) {
		if p.Record != 0 {
			out = append(out, p)
		}
	}
	return out
}
