// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// mark starts the lines of the guest that are results. The kernel's own messages, and on a slow
// console the ends of lines (CR), are around them.
const mark = "@@ "

// ParseLog reads the console log of one guest. It returns the part of one boot without its name,
// date, commit and emulator, and the release and features of its kernel.
func ParseLog(r io.Reader) (p Part, release string, features map[string]string, err error) {
	features = map[string]string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		_, line, found := strings.Cut(strings.TrimRight(lines.Text(), "\r"), mark)
		if !found {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "kernel":
			release = rest
		case "feature":
			name, value, _ := strings.Cut(rest, " ")
			features[name] = value
		case "end":
			p.Completed = true
		default:
			if err := p.parseLine(word, rest); err != nil {
				return p, release, features, fmt.Errorf("read line %q: %w", line, err)
			}
		}
	}
	return p, release, features, lines.Err()
}

// parseLine reads one line of a step or of the tests of a package. Unknown lines are ignored.
func (p *Part) parseLine(word, rest string) error {
	name, rest, _ := strings.Cut(rest, " ")
	name = strings.TrimSuffix(name, ",")
	switch word {
	case "ok":
		s := Step{Name: name, OK: true}
		seconds, note, _ := strings.Cut(rest, " s")
		var err error
		if s.Seconds, err = strconv.Atoi(seconds); err != nil {
			return err
		}
		s.Note = strings.TrimPrefix(note, ", ")
		p.Steps = append(p.Steps, s)
	case "FAILED":
		p.Steps = append(p.Steps, Step{Name: name, Note: strings.TrimPrefix(rest, ", ")})
	case "passed":
		n, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		p.test(name).Passed = n
	case "fail":
		t := p.test(name)
		t.Failed = append(t.Failed, rest)
	case "skip":
		test, reason, _ := strings.Cut(rest, " ")
		t := p.test(name)
		t.Skipped = append(t.Skipped, Skipped{Test: test, Reason: strings.TrimPrefix(reason, "skipped: ")})
	}
	return nil
}

// test returns the results of a package, which it adds if necessary.
func (p *Part) test(pkg string) *Test {
	i := slices.IndexFunc(p.Tests, func(t Test) bool { return t.Package == pkg })
	if i < 0 {
		p.Tests = append(p.Tests, Test{Package: pkg})
		i = len(p.Tests) - 1
	}
	return &p.Tests[i]
}

// options are the options of a kernel's build that Sotto depends on.
var options = []string{
	"BPF_SYSCALL", "BPF_JIT", "CGROUP_BPF", "DEBUG_INFO_BTF", "NET_CLS_ACT", "NET_CLS_BPF", "NET_SCH_INGRESS",
	"INET_DIAG_DESTROY", "NETFILTER_XTABLES_LEGACY", "MPTCP", "SMC", "SECURITY_LOCKDOWN_LSM", "BPF_UNPRIV_DEFAULT_OFF", "IPV6", "VETH",
}

// ParseConfig returns the options of a kernel's build from the text of its /boot/config file.
func ParseConfig(text string) map[string]string {
	out := map[string]string{}
	for _, o := range options {
		out[o] = "n"
		if _, rest, found := strings.Cut("\n"+text, "\nCONFIG_"+o+"="); found {
			out[o], _, _ = strings.Cut(rest, "\n")
		}
	}
	return out
}
