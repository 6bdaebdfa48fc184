// SPDX-License-Identifier: Apache-2.0

package status

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/internal/observe"
)

// TestState: a process that was stopped is not starting.
func TestState(t *testing.T) {
	for want, s := range map[string]Status{"ready": {Ready: true}, "starting": {}, "stopping": {Stopping: true}} {
		var b strings.Builder
		if err := s.Text(&b, time.Now(), Style{}); err != nil || !strings.Contains(b.String(), ", "+want+", ") {
			t.Errorf("%s: %s, %v", want, b.String(), err)
		}
	}
}

// TestText compares the whole form for people.
func TestText(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := Status{
		Version: "v1.2.3", Started: now.Add(-50 * time.Hour), PID: 42, Ready: true, Rules: 3,
		Seal: &Seal{
			Cgroups: []string{"/sys/fs/cgroup/app.slice", "/sys/fs/cgroup/user.slice"}, Exclude: []string{"/sys/fs/cgroup/app.slice/dns.service"},
			Missing: []string{"/sys/fs/cgroup/user.slice"},
			Prefix4: netip.MustParsePrefix("198.19.0.0/16"), Prefix6: netip.MustParsePrefix("fd73:6f74:746f::/64"),
			Guard: "drop", LocalResolvers: "redirect", SlotsUsed: 7, SlotsTotal: 65536,
			KernelAnswers: KernelAnswers{State: "on", Entries: 12, MaxEntries: 5120, Verdicts: map[string]uint64{"answered": 345}},
			Counters:      map[string]uint64{"connect": 12, "stopped_socket": 2, "foreign": 1, "escaped": 0},
		},
		Groups: []Group{
			{Name: "default", Policy: "hedged", Servers: []Server{
				{Server: "192.0.2.4:853", State: "silent", Queries: 1, Unauthenticated: "unknown authority"},
				{Server: "192.0.2.1:853#dns.example", State: "up", KeyExchange: "X25519MLKEM768", CertExpiry: now.Add(90 * 24 * time.Hour), Queries: 1234, Failed: 1, UsualMillis: 12.34, P95Millis: 56.78},
				{Server: "auto://dns.example", State: "up", Using: "DoQ", Addresses: []string{"192.0.2.3", "2001:db8::3"}},
				{Server: "192.0.2.2:853#dns.example", State: "down", CertExpiry: now.Add(49 * time.Hour), RetrySeconds: 7.4, LastError: "the server does not answer queries"},
			}},
			{Name: "corp", Policy: "failover", Servers: []Server{{Server: "192.0.2.3:853", State: "up", Unauthenticated: "unknown authority", KeyExchange: "X25519"}}},
		},
		Cache:       &Cache{Entries: 100, Bytes: 3 << 20, MaxBytes: 64 << 20, Hits: 90, Misses: 10},
		SharedCache: &SharedCache{Address: "192.0.2.6:6379", State: "down", LastError: "it did not answer in time", Found: 7, Misses: 3, Timeouts: 1, Errors: 1, Invalid: 1, Skipped: 4, Busy: 1},
		Queries:     Queries{Total: 1500, Source: map[string]uint64{"cache": 1000, "upstream": 500}, Rcode: map[string]uint64{"NOERROR": 1499, "SERVFAIL": 1}, Unanswered: map[string]uint64{"short": 2, "response": 1}, UpstreamP50Micros: 16384, UpstreamP99Micros: 512},
		Load:        Load{OverShare: 4},
		Workloads: []observe.WorkloadCounts{
			{Name: "/a\x1b", Queries: 6, Failed: 1, Cached: 2}, {Name: "/b", WorkloadName: "docker:b", Queries: 5}, {Name: "/c"}, {Name: "/d"}, {Name: "/e"}, {Name: "/f"},
		},
		Messages: []observe.Message{{Time: now.Add(-90 * time.Second), Level: "WARN", Text: "dropped: plain queries counter=stopped_socket"}},
	}
	const want = `Sotto            v1.2.3, ready, up 2d2h, PID 42
Sealed           /sys/fs/cgroup/app.slice
                 /sys/fs/cgroup/user.slice (does not exist now)
Excluded         /sys/fs/cgroup/app.slice/dns.service
Addresses        198.19.0.0/16 and fd73:6f74:746f::/64, 7 of 65536 in use
Local resolvers  redirect
Guard            drop: foreign 1, stopped_socket 2
Kernel answers   on: 12 of 5120 answers, given 345 times
Rules            3
Queries          1500: cache 1000, upstream 500
Answers          NOERROR 1499, SERVFAIL 1
Unanswered       response 1, short 2
Upstream times   half below 16 ms, 99 % below 512 µs
Cache            answers: 100, 3.0 MiB of 64.0 MiB, hit rate 90 %
Shared cache     192.0.2.6:6379, down: found 7, missed 3, late 1, failed 2, skipped 5
                 last error: it did not answer in time
Refused          0 over capacity, 4 over the share of a workload

Upstreams of default (hedged)  state   usual    p95      queries  failed
  192.0.2.4:853                silent  -        -        1        0
    not authenticated: unknown authority
  192.0.2.1:853#dns.example    up      12.3 ms  56.8 ms  1234     1
  auto://dns.example           up      -        -        0        0
    uses DoQ
    addresses: 192.0.2.3, 2001:db8::3
  192.0.2.2:853#dns.example    down    -        -        0        0
    last error: the server does not answer queries
    tried again in 7 s
    its certificate expires in 2d1h

Upstreams of corp (failover)  state  usual  p95  queries  failed
  192.0.2.3:853               up     -      -    0        0
    not authenticated: unknown authority
    key exchange X25519: not post-quantum

Workloads   queries  failed  cached
  /a�       6        1       2
  docker:b  5        0       0
  /c        0        0       0
  /d        0        0       0
  /e        0        0       0
  and 1 more

Latest warnings and errors
  1m30s ago  WARN: dropped: plain queries counter=stopped_socket
`
	var out strings.Builder
	if err := s.Text(&out, now, Style{}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestTraceLine(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	client, ns := netip.MustParseAddrPort("198.51.100.1:4711"), netip.MustParseAddrPort("[2001:db8::53]:53")
	for _, tc := range []struct {
		r    observe.Record
		want string
	}{
		{observe.Record{Time: at, Workload: "/system.slice/a.service", Client: client, Nameserver: ns, Proto: "udp", Name: "a.example.", Type: "A", Rcode: "NOERROR", Source: "cache", Millis: 0.04},
			"03:04:05.678 /system.slice/a.service @2001:db8::53 a.example. A → NOERROR cache 40µs\n"},
		{observe.Record{Time: at, Workload: "/docker/1", WorkloadName: "docker:web", Client: client, Proto: "udp", Name: "a.example.", Type: "A", Rcode: "NOERROR", Source: "cache", Millis: 0.04},
			"03:04:05.678 docker:web a.example. A → NOERROR cache 40µs\n"},
		{observe.Record{Time: at, Workload: "/a", Process: observe.Process{PID: 1234, UID: 1000, Comm: "my\x1bcurl"}, Client: client, Nameserver: ns, Proto: "udp", Name: "a.example.", Type: "A", Rcode: "NOERROR", Source: "cache", Millis: 0.04},
			"03:04:05.678 /a my\ufffdcurl[1234] @2001:db8::53 a.example. A → NOERROR cache 40µs\n"},
		{observe.Record{Time: at, Workload: "/a", Process: observe.UnknownProcess, Client: client, Proto: "udp", Name: "a.example.", Type: "A", Rcode: "NOERROR", Source: "cache", Millis: 0.04},
			"03:04:05.678 /a unknown a.example. A → NOERROR cache 40µs\n"},
		{observe.Record{Time: at, Workload: "/\x1b[2Ja\tb\xff", Client: client, Proto: "udp", Name: "a.example.", Type: "A", Rcode: "NOERROR", Source: "cache", Millis: 0.04},
			"03:04:05.678 /\ufffd[2Ja\ufffdb\ufffd a.example. A → NOERROR cache 40µs\n"},
		{observe.Record{Time: at, Client: client, Proto: "tcp", Name: "a.example.", Type: "AAAA", Rcode: "SERVFAIL", Source: "sotto", Rule: 2, Millis: 3800.1, Error: "no upstream answered\x1b[2J in time", Lost: 3},
			"… 3 queries were lost here, because this trace was read too slowly\n" +
				"03:04:05.678 198.51.100.1 a.example. AAAA → SERVFAIL sotto 3800.1ms tcp rule=2 (no upstream answered\uFFFD[2J in time)\n"},
		{observe.Record{Time: at, Workload: "/a", Process: observe.UnknownProcess, Client: client, Nameserver: ns, Proto: "udp", Source: "guard", Dropped: "stopped_opaque", Error: "packets whose headers hide the transport header"},
			"03:04:05.678 /a unknown @2001:db8::53 - → dropped guard stopped_opaque (packets whose headers hide the transport header)\n"},
		{observe.Record{Time: at, Client: client, Nameserver: ns, Proto: "udp", Name: "a.example.", Type: "A", Source: "guard", Dropped: "stopped_packet", Passed: true},
			"03:04:05.678 198.51.100.1 @2001:db8::53 a.example. A → left-in-the-clear guard stopped_packet\n"},
		{observe.Record{Time: at, Nameserver: ns, Proto: "tcp", Source: "hooks", Dropped: "foreign"},
			"03:04:05.678 unknown @2001:db8::53 - → refused hooks foreign tcp\n"},
	} {
		var out strings.Builder
		TraceLine(&out, &tc.r, time.UTC, Style{})
		if out.String() != tc.want {
			t.Errorf("got  %q\nwant %q", out.String(), tc.want)
		}
	}
}
