// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestFailureOf(t *testing.T) {
	seen := map[Failure]bool{}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{errors.New("anything"), "other"},
		{ErrSlowName, "timeout"},
		{&DialError{context.DeadlineExceeded}, "timeout"},
		{&LostError{ErrSilent}, "silent"},
		{&DialError{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}, "refused"},
		{&DialError{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}}, "unreachable"},
		{&LostError{io.EOF}, "closed"},
		{&LostError{syscall.ECONNRESET}, "closed"},
		{&DialError{tls.RecordHeaderError{}}, "tls"},
		{&DialError{&net.OpError{Op: "remote error", Err: tls.AlertError(40)}}, "tls"},
		{&DialError{&AddrError{Err: &TrustError{Reason: "expired"}}}, "untrusted"},
		{&LostError{&ClientCertError{Err: io.EOF}}, "client_certificate"},
		{&LostError{fmt.Errorf("read: %w", ErrMalformed)}, "malformed"},
		{ErrUnusable, "malformed"},
		{ErrNameCloses, "closed"},
		{ErrOverloaded, "overloaded"},
		{ErrNetworkChanged, "local"},
	} {
		f := FailureOf(tc.err)
		seen[f] = true
		if f.String() != tc.want {
			t.Errorf("%v: %v, want %s", tc.err, f, tc.want)
		}
	}
	if len(seen) != int(Failures) {
		t.Errorf("%d of %d classes occur", len(seen), Failures)
	}
}

// TestUnreached: no server received the query if no connection could be opened to any.
func TestUnreached(t *testing.T) {
	var s Server
	dial := NewError(s, 0, &DialError{syscall.ECONNREFUSED})
	silent := NewError(s, 0, ErrSilent)
	for what, tc := range map[string]struct {
		err  *Error
		want bool
	}{
		"a dial":      {dial, true},
		"silence":     {silent, false},
		"two dials":   {Join([]*Error{dial, dial}), true},
		"both":        {Join([]*Error{dial, silent}), false},
		"a local one": {NewLocalError(errors.New("anything")), false},
	} {
		if got := tc.err.Unreached(); got != tc.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
