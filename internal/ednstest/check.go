// SPDX-License-Identifier: Apache-2.0

package ednstest

import (
	"errors"
	"fmt"

	"golang.org/x/net/dns/dnsmessage"
)

// minUDP is what every client takes over UDP.
const minUDP = 512

// found is what a reply has in it.
type found struct {
	dnsmessage.Header
	z       bool
	rcode   int
	answers int
	opt     *dnsmessage.ResourceHeader // nil: there is none
	options []dnsmessage.Option
}

// Check says what is wrong with a reply to q, which came over UDP or over TCP.
func (q *Question) Check(reply []byte, udp bool) error {
	f, err := read(reply)
	if err != nil {
		return err
	}
	answers, cut := q.answers, q.cut && udp
	if cut {
		answers = 0
	}
	switch {
	case f.ID != id || !f.Response:
		return fmt.Errorf("no reply to the query: ID %#x, QR %v", f.ID, f.Response)
	case f.rcode != q.rcode:
		return fmt.Errorf("response code %d, want %d", f.rcode, q.rcode)
	case f.answers != answers:
		return fmt.Errorf("%d answers, want %d", f.answers, answers)
	case f.z || f.Authoritative:
		return fmt.Errorf("bit Z is %v, AA is %v, want neither", f.z, f.Authoritative)
	case f.Truncated != cut || cut && len(reply) > minUDP:
		return fmt.Errorf("TC is %v in %d bytes, want TC %v", f.Truncated, len(reply), cut)
	case (f.opt != nil) != q.edns:
		return fmt.Errorf("an OPT record: %v, want %v", f.opt != nil, q.edns)
	}
	return q.checkOPT(f)
}

// checkOPT checks the OPT record, if there is one.
func (q *Question) checkOPT(f *found) error {
	if f.opt == nil {
		return nil
	}
	version, do, rest := f.opt.TTL>>16&0xFF, f.opt.TTL&0x8000 != 0, f.opt.TTL&0x7FFF
	if version != 0 || do != q.do || rest != 0 || f.opt.Class < minUDP {
		return fmt.Errorf("EDNS version %d, DO %v, other flags %#x, size %d: want version 0, DO %v, none and at least %d",
			version, do, rest, f.opt.Class, q.do, minUDP)
	}
	for _, o := range f.options {
		if o.Code != optEDE {
			return fmt.Errorf("option %d came back", o.Code)
		}
	}
	return nil
}

// read takes a reply apart.
func read(reply []byte) (*found, error) {
	var p dnsmessage.Parser
	var f found
	var err error
	if f.Header, err = p.Start(reply); err != nil {
		return nil, err
	}
	f.z, f.rcode = reply[3]&z != 0, int(f.RCode)
	if err := p.SkipAllQuestions(); err != nil {
		return nil, err
	}
	for {
		if err = p.SkipAnswer(); err != nil {
			break
		}
		f.answers++
	}
	if !errors.Is(err, dnsmessage.ErrSectionDone) {
		return nil, err
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return nil, err
	}
	return &f, f.readAdditional(&p)
}

// readAdditional looks for OPT.
func (f *found) readAdditional(p *dnsmessage.Parser) error {
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Type != dnsmessage.TypeOPT {
			if err := p.SkipAdditional(); err != nil {
				return err
			}
			continue
		}
		if f.opt != nil {
			return errors.New("two OPT records")
		}
		r, err := p.OPTResource()
		if err != nil {
			return err
		}
		f.opt, f.options = &h, r.Options
		f.rcode = int(h.ExtendedRCode(f.RCode))
	}
}
