// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/miekg/dns"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// compareZone has records of all kinds that a forwarder could get wrong. BIG is replaced by
// a set of records of 20 kB.
const compareZone = `$ORIGIN example.
$TTL 300
@ IN SOA ns hostmaster 1 3600 900 86400 60
@ IN NS ns
@ IN NS ns.sub
@ IN MX 10 mail
@ IN CAA 0 issue "ca.example"
ns IN A 192.0.2.53
ns IN AAAA 2001:db8::53
mail IN A 192.0.2.25
www IN A 192.0.2.1
www IN A 192.0.2.2
www IN AAAA 2001:db8::1
www IN HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
_dns IN SVCB 1 ns alpn=dot port=853
_sip._tcp IN SRV 0 5 5060 sip
sip IN NAPTR 100 10 "s" "SIP+D2T" "" _sip._tcp.example.
host IN SSHFP 4 2 123456789abcdef67890123456789abcdef67890123456789abcdef123456789
_443._tcp.www IN TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
text IN TXT "one" "two \"quoted\"" "three"
empty IN TXT ""
odd IN TYPE65280 \# 9 000102030405060708
loc IN LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
info IN HINFO "cpu" "os"
a\.b IN TXT "a dot in a label"
\000\255 IN TXT "bytes in a label"
MiXeD.CaSe IN CNAME WwW
c1 IN CNAME c2
c2 IN CNAME c3
c3 IN CNAME www
out IN CNAME elsewhere.invalid.
loop IN CNAME loop
d IN DNAME sub2
x.sub2 IN A 192.0.2.99
*.wild IN A 192.0.2.77
*.wild IN TXT "wild"
*.cwild IN CNAME www
sub IN NS ns.sub
sub IN DS 12345 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
ns.sub IN A 192.0.2.54
ent.below.it IN A 192.0.2.3
1.2.0.192.rev IN PTR www.example.
BIG`

const compareNSD = `
server:
	ip-address: 127.0.0.1@TLS
	ip-address: 127.0.0.1@PLAIN
	port: PLAIN
	tls-port: TLS
	tls-service-key: key.pem
	tls-service-pem: cert.pem
	server-count: 1
	username: ""
	chroot: ""
	zonesdir: "."
	database: ""
	pidfile: ""
	xfrdfile: "xfrd.state"
	xfrdir: "."
	zonelistfile: "zone.list"
remote-control:
	control-enable: no
zone:
	name: example
	zonefile: example.zone.signed
`

// startNSD runs an nsd with the signed zone until the test ends. It returns its addresses for
// DNS over TLS and for plain DNS.
func startNSD(t *testing.T, ca *dnstest.CA, signArgs ...string) (secure, plain netip.AddrPort) {
	t.Helper()
	nsd := labtest.NeedTool(t, "nsd")
	dir := t.TempDir()
	signZone(t, dir, signArgs)
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{e2e.UpstreamName}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	e2e.WriteFile(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	e2e.WriteFile(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	secure, plain = freePort(t), freePort(t)
	config := filepath.Join(dir, "nsd.conf")
	e2e.WriteFile(t, config, strings.NewReplacer("TLS", fmt.Sprint(secure.Port()), "PLAIN", fmt.Sprint(plain.Port())).Replace(compareNSD))

	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, nsd, "-d", "-c", config)
	cmd.Dir = dir
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // its status is the signal's
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("nsd wrote:\n%s", text)
		}
	})
	for _, at := range []netip.AddrPort{secure, plain} {
		e2e.Eventually(t, "nsd to listen", func() bool {
			c, err := net.DialTimeout("tcp", at.String(), time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return secure, plain
}

// signZone writes the zone into dir, and signs it.
func signZone(t *testing.T, dir string, args []string) {
	t.Helper()
	keygen, signzone := labtest.NeedTool(t, "ldns-keygen"), labtest.NeedTool(t, "ldns-signzone")
	var big strings.Builder
	for i := range 80 {
		fmt.Fprintf(&big, "big IN TXT \"%03d %s\"\n", i, strings.Repeat("x", 245))
	}
	e2e.WriteFile(t, filepath.Join(dir, "example.zone"), strings.Replace(compareZone, "BIG", big.String(), 1))
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	key := run(keygen, "-a", "ECDSAP256SHA256", "-k", "example")
	run(signzone, append(args, "example.zone", key)...)
}

// freePort returns a loopback port that is not in use, for TCP and UDP.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, pc, err := dnstest.ListenPlain(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer pc.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// rawClient sends queries as bytes.
type rawClient struct{ c *dns.Conn }

func dialRaw(t *testing.T, network, addr string) *rawClient {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &rawClient{&dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}}
}

func (r *rawClient) ask(t *testing.T, query []byte) []byte {
	t.Helper()
	_ = r.c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := r.c.Write(query); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, dns.MaxMsgSize)
	n, err := r.c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// essence returns a reply without the parts that may differ: ID, AA, TTLs, OPT, and RA and
// CD, which an authoritative server does not set.
func essence(msg []byte) ([]byte, error) {
	if len(msg) < 12 {
		return nil, errors.New("shorter than a header")
	}
	out := append([]byte(nil), msg...)
	out[0], out[1] = 0, 0
	out[2] &^= 0x04
	out[3] &^= 0x80 | 0x10
	off := 12
	var err error
	for range binary.BigEndian.Uint16(msg[4:]) {
		if _, off, err = dns.UnpackDomainName(out, off); err != nil {
			return nil, err
		}
		off += 4
	}
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for range records {
		start := off
		if _, off, err = dns.UnpackDomainName(out, off); err != nil {
			return nil, err
		}
		if off+10 > len(out) {
			return nil, errors.New("a truncated record")
		}
		end := off + 10 + int(binary.BigEndian.Uint16(out[off+8:]))
		if binary.BigEndian.Uint16(out[off:]) == dns.TypeOPT {
			// Both servers append it last, so no compression pointer changes.
			out = append(out[:start], out[end:]...)
			binary.BigEndian.PutUint16(out[10:], binary.BigEndian.Uint16(out[10:])-1)
			off = start
			continue
		}
		clear(out[off+4 : off+8])
		off = end
	}
	if off != len(out) {
		return nil, fmt.Errorf("%d bytes behind the last record", len(out)-off)
	}
	return out, nil
}

// compareNames and compareTypes are queried in all combinations.
var (
	compareNames = strings.Fields(`. example. EXAMPLE. ns.example. wWw.eXample. mail.example. _dns.example. _sip._tcp.example.
		sip.example. host.example. _443._tcp.www.example. text.example. empty.example. odd.example. loc.example. info.example.
		a\.b.example. \000\255.example. mixed.case.example. c1.example. out.example. loop.example. y.d.example. x.d.example. d.example.
		any.wild.example. deep.any.wild.example. wild.example. z.cwild.example. sub.example. host.sub.example. below.it.example.
		1.2.0.192.rev.example. nothing.example. big.example. elsewhere.invalid.`)
	compareTypes = []uint16{
		dns.TypeA, dns.TypeAAAA, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypeSVCB, dns.TypeHTTPS, dns.TypeDNSKEY, dns.TypeRRSIG,
		dns.TypeNS, dns.TypeSOA, dns.TypeCNAME, dns.TypePTR, dns.TypeDS, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeCAA, dns.TypeNAPTR,
		dns.TypeSSHFP, dns.TypeTLSA, dns.TypeNSEC, dns.TypeLOC, dns.TypeHINFO, dns.TypeDNAME, dns.TypeANY, 65280, 4711,
	}
)

// TestSameAnswers checks that answers are byte for byte those of the upstream, except for TTL,
// ID, EDNS and the flags that a forwarder has to change: from the upstream and from the
// cache, over UDP and TCP.
func TestSameAnswers(t *testing.T) {
	t.Run("NSEC3", func(t *testing.T) { sameAnswers(t, "-n") })
	t.Run("NSEC", func(t *testing.T) { sameAnswers(t) })
}

func sameAnswers(t *testing.T, signArgs ...string) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	secure, direct := startNSD(t, ca, signArgs...)
	s, _ := startServing(t, fmt.Sprintf("rrset-order = \"fixed\"\nca-file = %q\nupstream = [%q]\n", caFile, secure.String()+"#"+e2e.UpstreamName))
	want := dialRaw(t, "tcp", direct.String())
	got := map[string]*rawClient{"udp": dialRaw(t, "udp", s.addr), "tcp": dialRaw(t, "tcp", s.addr)}
	compared, truncated := 0, 0
	for i, name := range compareNames {
		for _, typ := range compareTypes {
			for _, with := range []string{"", "EDNS", "DO", "CD"} {
				protos := []string{"udp", "tcp"} // the answer of the first is new, that of the second cached
				if i%2 == 0 {
					protos = []string{"tcp", "udp"}
				}
				for k, proto := range append(protos, protos...) {
					asked := name
					if k >= 2 {
						asked = otherCase(name) // the answer has the case of the query
					}
					query := compareQuery(t, asked, typ, with)
					wanted, err := essence(want.ask(t, query))
					if err != nil {
						t.Fatalf("%s %d: nsd's answer: %v", asked, typ, err)
					}
					reply := got[proto].ask(t, query)
					compared++
					if reply[3]&0x10 != query[3]&0x10 || reply[3]&0x80 == 0 {
						t.Errorf("%s, type %d, %s over %s: CD and RA are %x", asked, typ, with, proto, reply[3])
					}
					if proto == "udp" && reply[2]&0x02 != 0 {
						truncated++
						checkTruncated(t, reply, query, len(wanted), with != "")
						continue
					}
					answer, err := essence(reply)
					if proto == "udp" && err == nil && len(answer) < len(wanted) {
						checkShortened(t, reply, wanted, with != "")
						continue
					}
					if err != nil || string(answer) != string(wanted) {
						t.Fatalf("%s, type %d, %s over %s: %v\n got %x\nwant %x", asked, typ, with, proto, err, answer, wanted)
					}
				}
			}
		}
	}
	t.Logf("%d answers compared, %d of them truncated over UDP", compared, truncated)
	if truncated == 0 || truncated > compared/4 {
		t.Errorf("%d of %d answers were truncated over UDP: want a few", truncated, compared)
	}
}

func compareQuery(t *testing.T, name string, typ uint16, with string) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, typ)
	m.CheckingDisabled = with == "CD"
	if with != "" {
		m.SetEdns0(1232, with != "EDNS")
	}
	query, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return query
}

// otherCase returns a name with the case of all letters changed.
func otherCase(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, name)
}

// checkShortened checks that a reply without TC that is shorter than the whole one has all its
// answers, lacks only whole RRsets of other sections (RFC 2181 §9), and could not have them.
func checkShortened(t *testing.T, reply, whole []byte, edns bool) {
	t.Helper()
	got, want := new(dns.Msg), new(dns.Msg)
	if err := errors.Join(got.Unpack(reply), want.Unpack(whole)); err != nil {
		t.Fatalf("%x: %v", reply, err)
	}
	sets := func(rrs []dns.RR) map[string][]string {
		all := map[string][]string{}
		for _, rr := range rrs {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl = 0
				key := fmt.Sprint(strings.ToLower(h.Name), h.Rrtype)
				all[key] = append(all[key], strings.ToLower(rr.String()))
			}
		}
		return all
	}
	if g, w := sets(got.Answer), sets(want.Answer); !reflect.DeepEqual(g, w) {
		t.Errorf("a shortened reply has the answers %v: want %v", g, w)
	}
	for _, section := range [][2][]dns.RR{{got.Ns, want.Ns}, {got.Extra, want.Extra}} {
		w := sets(section[1])
		for key, set := range sets(section[0]) {
			if !reflect.DeepEqual(set, w[key]) {
				t.Errorf("a shortened reply has %v: want %v or nothing", set, w[key])
			}
		}
	}
	if limit := udpLimit(edns); len(whole) <= limit {
		t.Errorf("a reply of %d bytes, which may have %d, was shortened: %v", len(whole), limit, got)
	}
}

// udpLimit is the longest reply of compareQuery over UDP, without its OPT record.
func udpLimit(edns bool) int {
	if edns {
		return 1232 - 11
	}
	return dns.MinMsgSize
}

// checkTruncated checks that an answer with TC has only the question, and that the whole
// answer is too long for UDP.
func checkTruncated(t *testing.T, reply, query []byte, whole int, edns bool) {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil || len(m.Answer)+len(m.Ns) != 0 || (m.IsEdns0() != nil) != edns {
		t.Errorf("a truncated answer: %v, %v", m, err)
	}
	if whole <= udpLimit(edns) {
		t.Errorf("an answer of %d bytes was truncated (%x)", whole, query)
	}
}
