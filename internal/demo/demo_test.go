// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"sotto/internal/capture"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// build builds sotto.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sotto")
	cmd := exec.Command("go", "build", "-o", path, "sotto/cmd/sotto")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build sotto: %v\n%s", err, out)
	}
	return path
}

// needSeal skips the test if exec cannot work on this machine.
func needSeal(t *testing.T) {
	t.Helper()
	labtest.LockMachine(t)
	if _, err := netlab.CgroupRoot(); err != nil {
		labtest.Skip(t, "needs cgroup2 mounted")
	}
}

func TestRun(t *testing.T) {
	needSeal(t)
	self := build(t)
	for name, client := range map[string][]string{
		"Dig": {"dig"},
		"Own": {self, "demo", "ask"},
	} {
		t.Run(name, func(t *testing.T) {
			if client[0] == "dig" {
				labtest.NeedTool(t, "dig")
			}
			var out bytes.Buffer
			if err := Run(t.Context(), Options{Stdout: &out, Self: self, Client: client}); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			text := out.String()
			for _, want := range []string{"UNSEALED", "SEALED. Plain DNS packets: ", "TLS handshake", "plain DNS, TXT", "$ sotto exec"} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in the report:\n%s", want, text)
				}
			}
			for _, server := range []string{"8.8.8.8#53", "1.1.1.1#53", "2001:db8::53#53"} {
				if n := strings.Count(text, ";; SERVER: "+server); n != 2 {
					t.Errorf("%s answered %d times, want 2", server, n)
				}
			}
			for line := range strings.Lines(text) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
					t.Errorf("a line of %d columns: %s", n, line)
				}
			}
		})
	}
}

// TestRunDetectsFailure checks that Run returns an error for programs that do not seal.
func TestRunDetectsFailure(t *testing.T) {
	labtest.LockMachine(t)
	client := []string{labtest.NeedTool(t, "dig")}
	for want, script := range map[string]string{
		"NOT SEALED":    `while [ "$1" != -- ]; do shift; done; shift; exec "$@"`,
		"query sealed:": `exit 7`,
		"no TLS":        `true`,
	} {
		self := filepath.Join(t.TempDir(), "sotto")
		if err := os.WriteFile(self, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := Run(t.Context(), Options{Stdout: &out, Self: self, Client: client})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run: %v, want %q\n%s", err, want, &out)
		}
		if strings.Contains(out.String(), "SEALED. Plain") {
			t.Errorf("the report claims success:\n%s", &out)
		}
	}
}

func TestRunCancelled(t *testing.T) {
	needSeal(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	self := filepath.Join(t.TempDir(), "sotto")
	if err := os.WriteFile(self, []byte("#!/bin/sh\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Run(ctx, Options{Stdout: &bytes.Buffer{}, Self: self, Client: []string{self}}); err == nil {
		t.Error("a cancelled demo succeeded")
	}
}

// TestRunIntoClosedPipe checks that the demo leaves nothing behind if the reader of its
// output exits, as in sotto demo | head.
func TestRunIntoClosedPipe(t *testing.T) {
	needSeal(t)
	self, tmp := build(t), t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(self, "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Stdout = w
	err = cmd.Run()
	w.Close()
	if err == nil {
		t.Error("the demo succeeded without a reader")
	}
	if left, err := filepath.Glob(tmp + "/*"); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	names, err := netns.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, fmt.Sprintf("sottolab-%d.", cmd.Process.Pid)) {
			t.Errorf("namespace %s is left over", name)
		}
	}
}

func TestVerify(t *testing.T) {
	const queries = 3
	output := strings.Repeat("www.example.com.\t300\tIN\tA\t192.0.2.1\n;; SERVER: 8.8.8.8#53(8.8.8.8) (UDP)\n", queries)
	from, to := netip.MustParseAddrPort("10.77.0.2:1024"), netip.MustParseAddrPort("8.8.8.8:53")
	plain := capture.Packet{Protocol: unix.IPPROTO_UDP, Src: from, Dst: to, Payload: []byte("x")}
	tls := capture.Packet{Protocol: unix.IPPROTO_TCP, Src: from, Dst: netip.MustParseAddrPort("198.51.100.53:853"), Record: 23, Payload: []byte{23, 3, 3, 0, 0}}
	leak := tls
	leak.Payload = []byte("\x17\x03\x03..\x07example\x03com\x00")
	good := func() (phase, phase) {
		a := parseAnswers(output)
		return phase{answers: a, packets: []capture.Packet{plain}}, phase{answers: a, packets: []capture.Packet{tls}}
	}
	for _, tt := range []struct {
		name, want string
		change     func(before, after *phase)
	}{
		{"Good", "", func(_, _ *phase) {}},
		{"Plain", "NOT SEALED: 1 plain", func(_, after *phase) { after.packets = append(after.packets, plain) }},
		{"NameInTheClear", "NOT SEALED", func(_, after *phase) { after.packets = append(after.packets, leak) }},
		{"NothingBefore", "the capture does not work", func(before, _ *phase) { before.packets = nil }},
		{"NoTLS", "no TLS", func(_, after *phase) { after.packets = nil }},
		{"NoAnswers", "got 0 answers", func(before, _ *phase) { before.answers = answers{} }},
		{"OtherAnswer", "NOT TRANSPARENT", func(_, after *phase) {
			after.answers = parseAnswers(strings.Replace(output, "192.0.2.1", "192.0.2.2", 1))
		}},
		{"OtherServer", "NOT TRANSPARENT", func(_, after *phase) {
			after.answers = parseAnswers(strings.Replace(output, "8.8.8.8#53", "198.18.0.4#53", 1))
		}},
		{"CountedDown", "", func(_, after *phase) { after.answers = parseAnswers(strings.ReplaceAll(output, "300", "299")) }},
	} {
		before, after := good()
		tt.change(&before, &after)
		err := verify(before, after, queries)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestParseQuestions(t *testing.T) {
	got, err := parseQuestions(append([]string{"+noall"}, questions(true)...))
	if err != nil || len(got) != len(nameservers(questions(true))) || !got[1].tcp || got[0].tcp || got[2].server.String() != "[2001:db8::53]:53" {
		t.Errorf("parsed to %+v, %v", got, err)
	}
	if n4, n6 := len(nameservers(questions(false))), len(got); n4 != n6-1 {
		t.Errorf("%d questions without IPv6, %d with it", n4, n6)
	}
	for _, args := range [][]string{nil, {"A"}, {"@8.8.8.8"}, {"+tcp"}, {"name"}, {"name", "@nameserver"}, {"a", "b", "@8.8.8.8"}} {
		if got, err := parseQuestions(args); err == nil {
			t.Errorf("parseQuestions(%q) = %+v", args, got)
		}
	}
}

func TestPrintHelpers(t *testing.T) {
	if got := printable([]byte("a\x00b\x7f\xff")); got != "a.b.." {
		t.Errorf("printable: %q", got)
	}
	if got := truncate("abcdef", 5); got != "ab..." {
		t.Errorf("truncate: %q", got)
	}
	lines := wrap(strings.Fields("one two three four five"), 12)
	if strings.Join(lines, "|") != `one two \|three four \|five` && strings.Join(lines, "|") != `one two \|three \|four five` {
		t.Errorf("wrap: %q", lines)
	}
	for _, l := range lines {
		if len(l) > 12 {
			t.Errorf("wrap: %q is too long", l)
		}
	}
}
