// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zone is one zone of the comparison.
type zone struct {
	name string // with the last dot
	alg  string // of its keys; "": unsigned
	tool string // "" is dnssec-signzone

	nsec3  string // salt, "-": none; "": NSEC
	iter   int
	optOut bool

	ksks, zsks int // more than one: a rollover
	inception  time.Duration
	expiration time.Duration

	extra   string                                                 // records, before it is signed
	ds      func(t *testing.T, ds []string) []string               // changes what the parent has; nil: nothing
	tamper  func(t *testing.T, z *zone, records []dns.RR) []dns.RR // changes the signed zone
	content string                                                 // "": contents

	server  int // number of the server
	records string
	dsSet   []string
}

const day = 24 * time.Hour

// contents are in every zone. %s is the zone's name.
const contents = `$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
@ TXT "apex"
@ MX 10 mail
ns A 127.0.0.%d
www A 192.0.2.1
www A 192.0.2.2
mail A 192.0.2.25
mail AAAA 2001:db8::25
_25._tcp.mail TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971
_sip._udp SRV 1 2 5060 Www
text TXT "a" "b"
a.b.ent A 192.0.2.3
*.w A 192.0.2.4
*.w TXT "wild"
x.y.w A 192.0.2.5
alias CNAME www
alias2 CNAME alias
*.wc CNAME www
dangling CNAME nothing.here
cross CNAME www.a13.test.
crossnx CNAME nx.a8n.test.
crossplain CNAME www.plain.test.
dn DNAME a13.test.
dnplain DNAME plain.test.
ins NS ns.ins
ins.%[2]s NS ns.%[2]s
UPPER CNAME WWW
type65534 TYPE65534 \# 4 01020304
caa CAA 0 issue "ca.example"
svc HTTPS 1 . alpn=h2
`

// questions are asked in every zone.
var questions = []string{
	"@ SOA", "@ NS", "@ DNSKEY", "@ DS", "@ A", "@ TXT", "@ MX", "@ ANY", "www A", "www AAAA", "www DS", "WwW A", "nx A", "a.nx A", "mail AAAA",
	"_25._tcp.mail TLSA", "_sip._udp SRV", "ent A", "b.ent A", "a.b.ent A", "nx.b.ent A", "q.w A", "q.r.w TXT", "q.w AAAA", "x.y.w A", "y.w A", "q.y.w A",
	"*.w A", "alias A", "alias AAAA", "alias CNAME", "alias2 A", "q.wc A", "q.wc AAAA", "dangling A", "cross A", "crossnx A", "crossplain A", "www.dn A",
	"nx.dn A", "www.dnplain A", "dn DNAME", "ins DS", "ins NS", "www.ins A", "nx.ins A", "upper A", "type65534 TYPE65534", "caa CAA", "svc HTTPS", "ns NSEC",
}

// sign writes the zone's file in dir, and fills in records and dsSet.
func (z *zone) sign(t *testing.T, dir string) {
	t.Helper()
	dir = filepath.Join(dir, "zone-"+strings.TrimSuffix("root-"+z.name, "."))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	body := z.content
	if body == "" {
		body = fmt.Sprintf(contents, 2+z.server, "other")
	}
	file := filepath.Join(dir, "zone")
	writeFile(t, file, "$ORIGIN "+z.name+"\n"+body+z.extra)
	signed := file
	if z.alg != "" {
		signed = z.run(t, dir, file)
	}
	text, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	var records []dns.RR
	p := dns.NewZoneParser(strings.NewReader(string(text)), z.name, signed)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		records = append(records, rr)
	}
	if p.Err() != nil {
		t.Fatalf("%s: %v", z.name, p.Err())
	}
	for _, rr := range records {
		if k, ok := rr.(*dns.DNSKEY); ok && k.Flags&dns.SEP != 0 && k.Hdr.Name == z.name && k.Flags&dns.REVOKE == 0 {
			z.dsSet = append(z.dsSet, k.ToDS(dns.SHA256).String())
		}
	}
	if z.ds != nil {
		z.dsSet = z.ds(t, z.dsSet)
	}
	if z.tamper != nil {
		records = z.tamper(t, z, records)
	}
	var b strings.Builder
	for _, rr := range records {
		b.WriteString(strings.Replace(rr.String(), "\tCLASS1\t", "\tIN\t", 1) + "\n") // knot does not read CLASS1
	}
	z.records = b.String()
}

// run signs a file with the zone's tool, and returns the name of the signed file.
func (z *zone) run(t *testing.T, dir, file string) string {
	inception, expiration := z.inception, z.expiration
	if inception == 0 {
		inception = -day
	}
	if expiration == 0 {
		expiration = 30 * day
	}
	now := time.Now().UTC()
	from, to := now.Add(inception).Format("20060102150405"), now.Add(expiration).Format("20060102150405")
	switch z.tool {
	case "ldns":
		return z.ldns(t, dir, file, from, to)
	case "knot":
		return z.knot(t, dir, file)
	}
	bits := []string{}
	if strings.Contains(z.alg, "RSA") {
		bits = []string{"-b", "2048"}
	}
	for i := range max(1, z.ksks) + max(1, z.zsks) {
		args := append([]string{"-q", "-K", dir, "-a", z.alg}, bits...)
		if i < max(1, z.ksks) {
			args = append(args, "-f", "KSK")
		}
		command(t, dir, "dnssec-keygen", append(args, z.name)...)
	}
	args := []string{"-q", "-P", "-S", "-K", dir, "-o", z.name, "-s", from, "-e", to, "-O", "full", "-f", file + ".signed", "-d", dir}
	if z.nsec3 != "" {
		args = append(args, "-3", z.nsec3, "-H", fmt.Sprint(z.iter))
	}
	if z.optOut {
		args = append(args, "-A")
	}
	command(t, dir, "dnssec-signzone", append(args, file)...)
	return file + ".signed"
}

// ldns signs with ldns-signzone.
func (z *zone) ldns(t *testing.T, dir, file, from, to string) string {
	ksk := strings.TrimSpace(command(t, dir, "ldns-keygen", "-a", z.alg, "-k", z.name))
	zsk := strings.TrimSpace(command(t, dir, "ldns-keygen", "-a", z.alg, z.name))
	args := []string{"-f", file + ".signed", "-i", from, "-e", to}
	if z.nsec3 != "" {
		args = append(args, "-n", "-t", fmt.Sprint(z.iter))
		if z.nsec3 != "-" {
			args = append(args, "-s", z.nsec3)
		}
		if z.optOut {
			args = append(args, "-p")
		}
	}
	command(t, dir, "ldns-signzone", append(args, file, ksk, zsk)...)
	return file + ".signed"
}

// knot signs with kzonesign.
func (z *zone) knot(t *testing.T, dir, file string) string {
	nsec3 := ""
	if z.nsec3 != "" {
		nsec3 = fmt.Sprintf("    nsec3: on\n    nsec3-iterations: %d\n    nsec3-salt-length: 8\n    nsec3-opt-out: %v\n", z.iter, map[bool]string{true: "on", false: "off"}[z.optOut])
	}
	conf := filepath.Join(dir, "knot.conf")
	writeFile(t, conf, fmt.Sprintf("server:\n    rundir: %[1]s\ndatabase:\n    storage: %[1]s/db\npolicy:\n  - id: p\n    manual: on\n    algorithm: %[2]s\n%[3]s"+
		"zone:\n  - domain: %[4]s\n    storage: %[1]s\n    file: zone\n    dnssec-signing: on\n    dnssec-policy: p\n", dir, z.alg, nsec3, z.name))
	out := filepath.Join(dir, "out")
	for _, d := range []string{out, filepath.Join(dir, "db")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, role := range []string{"ksk", "zsk"} {
		command(t, dir, "keymgr", "-c", conf, z.name, "generate", "algorithm="+z.alg, role+"=yes")
	}
	command(t, dir, "kzonesign", "-c", conf, "-o", out, z.name)
	files, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("kzonesign wrote %v, %v", files, err)
	}
	return files[0]
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// without removes the records of a zone that match.
func without(match func(rr dns.RR) bool) func(*testing.T, *zone, []dns.RR) []dns.RR {
	return func(t *testing.T, z *zone, records []dns.RR) []dns.RR {
		var kept []dns.RR
		for _, rr := range records {
			if !match(rr) {
				kept = append(kept, rr)
			}
		}
		if len(kept) == len(records) {
			t.Fatalf("%s: nothing to remove", z.name)
		}
		return kept
	}
}

// covers reports whether rr is a signature of records of a type; 0 means any.
func covers(rr dns.RR, typ uint16) bool {
	sig, ok := rr.(*dns.RRSIG)
	return ok && (typ == 0 || sig.TypeCovered == typ)
}

// breakSignatures changes one bit of the signatures of a type.
func breakSignatures(typ uint16) func(*testing.T, *zone, []dns.RR) []dns.RR {
	return func(_ *testing.T, _ *zone, records []dns.RR) []dns.RR {
		for _, rr := range records {
			if covers(rr, typ) {
				sig := rr.(*dns.RRSIG)
				first := "A"
				if strings.HasPrefix(sig.Signature, "A") {
					first = "Q"
				}
				sig.Signature = first + sig.Signature[1:]
			}
		}
		return records
	}
}

var dsFields = regexp.MustCompile(`IN\s+DS\s+(\d+) (\d+) (\d+) (\S+)`)

// changeDS returns the DS records with other fields.
func changeDS(change func(tag, alg, typ, digest string) string) func(*testing.T, []string) []string {
	return func(t *testing.T, all []string) []string {
		var out []string
		for _, ds := range all {
			m := dsFields.FindStringSubmatch(ds)
			if m == nil {
				t.Fatalf("no DS record: %s", ds)
			}
			out = append(out, strings.Replace(ds, m[0], "IN DS "+change(m[1], m[2], m[3], m[4]), 1))
		}
		return out
	}
}

func noDS(*testing.T, []string) []string { return nil }
