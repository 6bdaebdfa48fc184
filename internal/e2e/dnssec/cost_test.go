// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sotto/internal/e2e"
)

// costRounds is how often each variant is measured, in turn.
const costRounds = 3

// TestCost reports misses per second with validation and without, of unique names below a signed
// wildcard that nsd serves over TLS, and the processor time and memory of Sotto.
func TestCost(t *testing.T) {
	if os.Getenv(full) == "" {
		t.Skipf("set %s=1, as scripts/dnssec-test.sh does", full)
	}
	dir := t.TempDir()
	wild := &zone{name: "wild.test.", alg: "ECDSAP256SHA256", content: "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.2\n*.w A 192.0.2.1\n"}
	wild.sign(t, dir)
	top := &zone{name: "test.", alg: "ECDSAP256SHA256", content: "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.2\nwild NS ns.wild\nns.wild A 127.0.0.2\n" + strings.Join(wild.dsSet, "\n") + "\n"}
	top.sign(t, dir)
	root := &zone{name: ".", alg: "ECDSAP256SHA256", content: "$TTL 300\n@ SOA ns.root. hostmaster.root. 1 3600 600 86400 60\n@ NS ns.root.\nns.root. A 127.0.0.2\ntest. NS ns.test.\nns.test. A 127.0.0.2\n" + strings.Join(top.dsSet, "\n") + "\n"}
	root.sign(t, dir)
	ca := serveTLS(t, dir, []*zone{wild, top, root})
	writeFile(t, dir+"/root.key", strings.Join(root.dsSet, "\n")+"\n")
	settings := fmt.Sprintf("upstream = [\"127.0.0.2:853#dns.example\"]\nca-file = %q\ncache-mib = 64\n", ca)
	off := startSotto(t, dir, "127.0.0.8", settings)
	on := startSotto(t, dir, "127.0.0.9", settings+fmt.Sprintf("dnssec = \"validate\"\ntrust-anchor-file = %q\n", dir+"/root.key"))
	var rates, cpu [2][]float64
	for round := range costRounds {
		for i, addr := range []string{"127.0.0.8", "127.0.0.9"} {
			pid := []int{off.Process.Pid, on.Process.Pid}[i]
			before := processorTime(t, pid)
			rate, queries := perf(t, dir, addr, round)
			rates[i] = append(rates[i], rate)
			cpu[i] = append(cpu[i], (processorTime(t, pid)-before).Seconds()/float64(queries)*1e6)
		}
	}
	if v, _ := ask("127.0.0.9", "check.w.wild.test.", "A"); !v.ad {
		t.Errorf("%v: want a secure answer", v)
	}
	t.Logf("misses/s without validation %.0f, with %.0f; processor time per miss %.1f and %.1f µs; peak memory %d and %d MB",
		rates[0], rates[1], cpu[0], cpu[1], e2e.PeakMemory(t, off.Process.Pid)>>20, e2e.PeakMemory(t, on.Process.Pid)>>20)
}

// serveTLS starts nsd with zones, over TLS, and returns the file of its certificate authority.
func serveTLS(t *testing.T, dir string, zones []*zone) (ca string) {
	t.Helper()
	certificate(t, dir)
	conf := fmt.Sprintf("server:\n  ip-address: %[1]s\n  ip-address: %[1]s@853\n  tls-port: 853\n  tls-service-pem: %[2]q\n  tls-service-key: %[3]q\n  username: \"\"\n  zonesdir: %[4]q\n  pidfile: \"\"\n  database: \"\"\n  zonelistfile: %[4]s/nsd.list\n  xfrdfile: %[4]s/xfrd\n  tcp-timeout: 120\n  tcp-query-count: 0\nremote-control:\n  control-enable: no\n",
		addrNSD, dir+"/cert.pem", dir+"/key.pem", dir)
	for i, z := range zones {
		file := fmt.Sprintf("%s/signed-%d", dir, i)
		writeFile(t, file, z.records)
		conf += fmt.Sprintf("zone:\n  name: %q\n  zonefile: %q\n", z.name, file)
	}
	writeFile(t, dir+"/nsd.conf", conf)
	start(t, addrNSD, "nsd", "-d", "-c", dir+"/nsd.conf")
	return dir + "/ca.pem"
}

var (
	perfRate = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
	perfDone = regexp.MustCompile(`Queries completed:\s+(\d+) \(([0-9.]+)%\)`)
)

// perf sends unique names with dnsperf, and returns the rate of answers and their number.
func perf(t *testing.T, dir, addr string, round int) (rate float64, queries int) {
	t.Helper()
	var names strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&names, "r%d-%d.w.wild.test A\n", round, i)
	}
	writeFile(t, dir+"/names", names.String())
	out, err := exec.Command("dnsperf", "-s", addr, "-d", dir+"/names", "-c", "8", "-q", "100", "-n", "1", "-t", "5").CombinedOutput()
	if err != nil {
		t.Fatalf("dnsperf: %v\n%s", err, out)
	}
	m, n := perfRate.FindSubmatch(out), perfDone.FindSubmatch(out)
	if m == nil || n == nil || !strings.Contains(string(out), "NOERROR") {
		t.Fatalf("dnsperf: %s", out)
	}
	rate, _ = strconv.ParseFloat(string(m[1]), 64)
	queries, _ = strconv.Atoi(string(n[1]))
	return rate, queries
}

// processorTime returns the processor time that a process has used.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
