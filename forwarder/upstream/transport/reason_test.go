// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"sotto/forwarder/wire"
)

func TestErrorText(t *testing.T) {
	s := Server{Addr: netip.MustParseAddrPort("9.9.9.9:853"), Name: "dns.quad9.net"}
	for _, tc := range []struct {
		err  error
		code uint16
		want string
	}{
		{ErrTimeout, wire.EDENoReachableAuthority, "no answer within 1.5s"},
		{ErrSlowName, wire.EDENoReachableAuthority, "no answer within 1.5s"},
		{context.DeadlineExceeded, wire.EDENoReachableAuthority, "no answer within 1.5s"},
		{context.Canceled, wire.EDEOther, "the query was canceled"},
		{fmt.Errorf("dial: %w", syscall.ENETUNREACH), wire.EDENetworkError, "no route to it from this machine"},
		{syscall.ECONNREFUSED, wire.EDENetworkError, "connection refused: nothing listens on TCP port 853 there"},
		{&LostError{Err: syscall.ECONNRESET}, wire.EDENetworkError, "the server reset the connection before it answered"},
		{&LostError{Err: io.EOF}, wire.EDENetworkError, "the server closed the connection before it answered"},
		{&LostError{Err: ErrSilent}, wire.EDENoReachableAuthority, "the server does not answer queries"},
		{io.EOF, wire.EDENetworkError, "the server closed the connection during the TLS handshake"},
		{errors.New("strange\nthings\x00happen"), wire.EDENetworkError, "strange things happen"},
	} {
		e := NewError(s, 1503*time.Millisecond, tc.err)
		if got, want := e.EDE(), (wire.EDE{Code: tc.code, Text: "9.9.9.9:853#dns.quad9.net: " + tc.want}); got != want {
			t.Errorf("%v: EDE %+v, want %+v", tc.err, got, want)
		}
		if !errors.Is(e, tc.err) {
			t.Errorf("%v: the cause is lost", tc.err)
		}
	}
}

func TestJoinIsBounded(t *testing.T) {
	var errs []*Error
	for i := range 20 {
		errs = append(errs, &Error{Server: fmt.Sprintf("192.0.2.%d:853", i), Code: wire.EDENoReachableAuthority, Reason: strings.Repeat("ü", 80+i)})
	}
	for n := 1; n <= len(errs); n++ {
		ede := Join(errs[:n]).EDE()
		if len(ede.Text) > MaxText || !utf8.ValidString(ede.Text) || !strings.HasPrefix(ede.Text, "192.0.2.0:853: ü") {
			t.Errorf("%d errors: %d bytes, %q", n, len(ede.Text), ede.Text)
		}
	}
	errs[3].Code = wire.EDENetworkError
	if e := Join(errs); e.Code != wire.EDENetworkError || !errors.Is(e, errs[7]) {
		t.Errorf("code %d, want the most specific one, and every cause", e.Code)
	}
}
