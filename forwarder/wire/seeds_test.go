// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The hand-made seeds of the fuzz targets. They are also files below testdata/fuzz, which
// the go command and other tools read.

var querySeeds = map[string][]byte{
	"plain":               ask(fRD, 0),
	"edns-do":             ask(fRD|fAD, 1, opt(1232, 0x8000)),
	"short-header":        ask(fRD, 0)[:11],
	"lying-counts":        cat(head(fRD, 1, 65535, 65535, 65535), question),
	"lying-arcount":       ask(fRD, 2, opt(512, 0)),
	"two-questions":       cat(head(fRD, 2), question, question),
	"trailing-byte":       ask(fRD, 0, []byte{0}),
	"pointer-in-question": cat(head(fRD, 1), self, u16(TypeA, ClassIN)),
	"pointer-loop":        ask(fRD, 1, in(cat(open("a"), ptr(firstRecord)), TypeA, addr)),
	"forward-pointer":     ask(fRD, 1, in(ptr(firstRecord+2), TypeA, addr)),
	"option-past-rdlen":   ask(fRD, 1, opt(512, 0, u16(10, 9), []byte("12345678"))),
	"rdlen-past-message":  ask(fRD, 1, cat(opt(512, 0)[:9], u16(99))),
	"two-opts":            ask(fRD, 2, opt(512, 0), opt(512, 0)),
	"opt-in-answer":       cat(head(fRD, 1, 1), question, opt(512, 0)),
	"edns-version-1":      ask(fRD, 1, opt(512, 1<<16)),
	"name-255":            cat(head(fRD, 1), longName(), u16(TypeA, ClassIN)),
	"name-256":            cat(head(fRD, 1), open("y"), longName(), u16(TypeA, ClassIN)),
	"label-64":            cat(head(fRD, 1), []byte{64}, bytes.Repeat([]byte("x"), 64), []byte{0}, u16(TypeA, ClassIN)),
	"label-with-dots":     cat(head(fRD, 1), name("a.b", "\x00\xff"), u16(TypeA, ClassIN)),
	"a-of-no-bytes":       cat(head(fRD, 1, 1), question, in(self, TypeA), addr),
	"cookie":              ask(fRD, 1, opt(1232, 0, option(10, "12345678"))),
	"cookie-alone":        cat(head(fRD, 0, 0, 0, 1), opt(1232, 0, option(10, "1234567812345678"))),
	"cookie-short":        ask(fRD, 1, opt(1232, 0, option(10, "123456789"))),
	"iquery":              cat(head(0x0800, 0, 1), in(name("a"), TypeA, addr)),
	"notify":              cat(head(0x2000, 1), example, u16(TypeSOA, ClassIN)),
	"update":              cat(head(0x2800, 1, 0, 1), example, u16(TypeSOA, ClassIN), rawRecord(self, TypeA, ClassANY, 0, nil)),
	"tsig":                ask(fRD, 1, rawRecord(name("k"), TypeTSIG, ClassANY, 0, cat(name("h"), make([]byte, 16)))),
}

var replySeeds = map[string][]byte{
	"plain":              reply(0, 1, 0, 1, in(self, TypeA, addr), opt(1232, 0, option(15, "\x00\x16why"))),
	"short-header":       reply(0, 0, 0, 0)[:11],
	"lying-counts":       reply(0, 65535, 65535, 65535, in(self, TypeA, addr)),
	"trailing-byte":      reply(0, 0, 0, 0, []byte{0}),
	"pointer-loop":       reply(0, 1, 0, 0, in(cat(open("a"), ptr(firstRecord)), TypeA, addr)),
	"pointer-into-ttl":   reply(0, 2, 0, 0, in(self, TypeA, addr), in(ptr(firstRecord+6), TypeA, addr)),
	"pointer-into-opt":   reply(0, 0, 0, 2, opt(1232, 0), in(ptr(firstRecord), TypeA, addr)),
	"cname-loop":         reply(0, 1, 0, 0, in(self, TypeCNAME, ptr(firstRecord+12))),
	"cname-chain":        reply(0, 2, 0, 0, in(self, TypeCNAME, open("w"), ptr(HeaderLen+4)), in(ptr(firstRecord+12), TypeA, addr)),
	"opt-first":          reply(0, 0, 0, 3, opt(512, 0, option(3, "id")), in(name("a", "b"), TypeA, addr), in(ptr(firstRecord+17), TypeMX, u16(1), open("m"), ptr(firstRecord+19))),
	"option-past-rdlen":  reply(0, 0, 0, 1, opt(512, 0, u16(10, 9), []byte("12345678"))),
	"nxdomain":           reply(3, 0, 1, 0, soa(name("com"), 600, 400)),
	"ttl-top-bit":        reply(0, 1, 0, 0, rawRecord(self, TypeA, ClassIN, 1<<31|5, addr)),
	"keepalive":          reply(0, 1, 0, 1, in(self, TypeA, addr), opt(1232, 0, option(10, "12345678"), option(11, "\x00\x64"))),
	"extended-rcode":     reply(0, 0, 0, 1, opt(512, 1<<24)),
	"truncated":          reply(fTC, 0, 0, 0),
	"name-255":           cat(head(fQR, 1, 1), longName(), u16(TypeA, ClassIN), in(self, TypeA, addr)),
	"label-with-dots":    reply(0, 1, 0, 0, in(name("a.b", "\x00"), TypeCNAME, name("\xff."))),
	"https-srv-naptr":    reply(0, 3, 0, 0, in(self, TypeHTTPS, u16(1), name(), u16(1, 3), []byte("\x02h2")), in(self, TypeSRV, u16(1, 2, 3), self), in(self, TypeNAPTR, u16(1, 2), []byte("\x01u\x03sip\x00"), self)),
	"rrsig-nsec-dname":   reply(0, 1, 2, 0, in(self, TypeDNAME, name("d")), in(self, TypeNSEC, name("n"), bitmap), in(self, TypeRRSIG, u16(TypeNSEC, 0x0803), make([]byte, 14), name("com"), []byte("sig"))),
	"tsig":               reply(0, 0, 0, 1, rawRecord(name("k"), TypeTSIG, ClassANY, 0, cat(name("h"), make([]byte, 16)))),
	"many-pointers":      slowChain(6),
	"unknown-type":       reply(0, 1, 0, 0, in(self, 65280, ptr(0x3FFF))),
	"name-too-long-tail": cat(head(fQR, 1, 1), longName(), u16(TypeA, ClassIN), in(cat(open("y"), self), TypeA, addr)),
}

// longSeeds returns messages of 65,535 bytes, which are too long for readable files.
func longSeeds(flags uint16) [][]byte {
	full := MaxMessage - firstRecord
	return [][]byte{
		cat(head(flags, 1, 1), question, in(self, TypeTXT, make([]byte, full-12))),
		cat(head(flags, 1, 0, 0, 1), question, opt(512, 0, option(12, strings.Repeat("\x00", full-optLen-optionLen)))),
		cat(head(flags, 1, 65535, 65535, 65535), question, make([]byte, full)),
		cat(head(flags, 1, uint16(full/16)), question, bytes.Repeat(in(self, TypeA, addr), full/16)),
		cat(head(flags, 1), bytes.Repeat([]byte{63}, MaxMessage-HeaderLen)),
	}
}

var update = flag.Bool("update", false, "write the seeds below testdata/fuzz")

// TestSeedFiles checks that the files match the tables above.
func TestSeedFiles(t *testing.T) {
	for target, seeds := range map[string]map[string][]byte{"FuzzParseQuery": querySeeds, "FuzzParseReply": replySeeds} {
		for name, msg := range seeds {
			path := filepath.Join("testdata", "fuzz", target, name)
			want := fmt.Sprintf("go test fuzz v1\n[]byte(%+q)\n", msg)
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != want {
				t.Errorf("%s does not match its seed (%v): run go test -run TestSeedFiles -update to write it", path, err)
			}
		}
	}
}
