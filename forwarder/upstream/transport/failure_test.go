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
