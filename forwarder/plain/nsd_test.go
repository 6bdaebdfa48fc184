// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

const (
	zoneRecords = 5000
	zoneSerial  = 2026
	keyName     = "transfer.key."
)

var keySecret = base64.StdEncoding.EncodeToString([]byte("a key of sixteen or more bytes"))

// startNSD starts nsd with three zones: open.example may be transferred, signed.example
// with a key, and closed.example not at all.
func startNSD(t *testing.T) netip.AddrPort {
	t.Helper()
	bin, err := exec.LookPath("nsd")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/nsd"); err != nil {
			t.Skip("nsd is not installed")
		}
	}
	l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	_, _ = l.Close(), pc.Close()

	dir := t.TempDir()
	config := fmt.Sprintf(`server:
	ip-address: %s@%d
	username: ""
	chroot: ""
	pidfile: ""
	zonesdir: %q
	xfrdfile: %q
	xfrdir: %q
	zonelistfile: %q
	database: ""
	server-count: 1
remote-control:
	control-enable: no
key:
	name: %q
	algorithm: hmac-sha256
	secret: %q
`, at.Addr(), at.Port(), dir, dir+"/xfrd.state", dir, dir+"/zone.list", keyName, keySecret)
	for zone, provide := range map[string]string{"open": "127.0.0.1 NOKEY", "signed": "127.0.0.1 " + keyName, "closed": ""} {
		var text strings.Builder
		fmt.Fprintf(&text, "$ORIGIN %s.example.\n$TTL 300\n@ SOA ns a %d 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n", zone, zoneSerial)
		for i := range zoneRecords {
			fmt.Fprintf(&text, "h%d A 192.0.2.%d\n", i, i%250)
		}
		write(t, filepath.Join(dir, zone), text.String())
		config += fmt.Sprintf("zone:\n\tname: %s.example\n\tzonefile: %s\n", zone, zone)
		if provide != "" {
			config += "\tprovide-xfr: " + provide + "\n"
		}
	}
	write(t, dir+"/nsd.conf", config)

	cmd := exec.Command(bin, "-d", "-c", dir+"/nsd.conf")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
		}
	})
	c := New(Config{})
	for end := inAWhile(); ; time.Sleep(20 * time.Millisecond) {
		_, err := c.Exchange(t.Context(), at, 0, ask(t, "open.example.", dns.TypeSOA), false, soon())
		if err == nil {
			return at
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("nsd exited: %v\n%s", err, out.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("nsd does not answer: %v", err)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// countRecords runs a transfer, and returns the number of records and the last message.
func countRecords(t *testing.T, at netip.AddrPort, query []byte, each func(msg []byte)) (records int, last *dns.Msg) {
	t.Helper()
	last = new(dns.Msg)
	err := New(Config{}).Transfer(t.Context(), at, query, inAWhile(), func(msg []byte) error {
		if each != nil {
			each(msg)
		}
		records += int(msg[6])<<8 | int(msg[7])
		return last.Unpack(msg)
	})
	if err != nil {
		t.Errorf("transfer: %v", err)
	}
	return records, last
}

// TestNSD tests against an independent server.
func TestNSD(t *testing.T) {
	at := startNSD(t)
	const all = zoneRecords + 4 // SOA, NS, its address, and the SOA again
	t.Run("query", func(t *testing.T) {
		both(t, func(t *testing.T, tcp bool) {
			query := ask(t, "h1.open.example.", dns.TypeA)
			reply, err := New(Config{}).Exchange(t.Context(), at, 0, query, tcp, inAWhile())
			if err != nil || wire.Rcode(reply) != wire.RcodeSuccess || !wire.SameQuestion(query, reply) {
				t.Errorf("%x, %v", reply, err)
			}
		})
	})
	t.Run("AXFR", func(t *testing.T) {
		n, last := countRecords(t, at, ask(t, "open.example.", dns.TypeAXFR), nil)
		if soa, ok := last.Answer[len(last.Answer)-1].(*dns.SOA); n != all || !ok || soa.Serial != zoneSerial {
			t.Errorf("%d records, want %d; the last %v", n, all, last.Answer[len(last.Answer)-1])
		}
	})
	t.Run("IXFR", func(t *testing.T) {
		ixfr := func(serial uint32) []byte {
			return pack(t, new(dns.Msg).SetIxfr("open.example.", serial, "ns.open.example.", "a.open.example."))
		}
		if n, _ := countRecords(t, at, ixfr(zoneSerial), nil); n != 1 {
			t.Errorf("up to date: %d records", n)
		}
		if n, _ := countRecords(t, at, ixfr(zoneSerial-1), nil); n != all {
			t.Errorf("the whole zone: %d records", n)
		}
	})
	t.Run("refused", func(t *testing.T) {
		n, last := countRecords(t, at, ask(t, "closed.example.", dns.TypeAXFR), nil)
		if n != 0 || last.Rcode == dns.RcodeSuccess {
			t.Errorf("%d records, %v", n, last)
		}
	})
	t.Run("TSIG", func(t *testing.T) { testSigned(t, at, all) })
}

// testSigned: a signed transfer is passed on with its signatures, although the server saw
// another ID than the client's.
func testSigned(t *testing.T, at netip.AddrPort, all int) {
	m := new(dns.Msg).SetQuestion("signed.example.", dns.TypeAXFR)
	m.Id = 0x1234
	m.SetTsig(keyName, dns.HmacSHA256, 300, time.Now().Unix())
	query, mac, err := dns.TsigGenerate(m, keySecret, "", false)
	if err != nil {
		t.Fatal(err)
	}
	n, signed := 0, 0
	var since []byte // messages may be unsigned; the next signature covers them too
	n, _ = countRecords(t, at, query, func(msg []byte) {
		wire.SetID(msg, m.Id)
		got := new(dns.Msg)
		if err := got.Unpack(msg); err != nil {
			t.Error(err)
			return
		}
		sig := got.IsTsig()
		if sig == nil {
			since = append(since, msg...)
			return
		}
		if since == nil {
			if err := dns.TsigVerify(msg, keySecret, mac, signed > 0); err != nil {
				t.Errorf("signature %d: %v", signed, err)
			}
		}
		since = nil
		mac = sig.MAC
		signed++
	})
	if n != all || signed == 0 {
		t.Errorf("%d records, want %d, with %d signatures", n, all, signed)
	}
}
