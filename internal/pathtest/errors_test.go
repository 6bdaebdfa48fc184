// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKindOf(t *testing.T) {
	for err, want := range map[error]kind{
		&net.OpError{Err: os.NewSyscallError("connect", unix.ENETUNREACH)}: noPath,
		os.NewSyscallError("socket", unix.EAFNOSUPPORT):                    noPath,
		os.NewSyscallError("connect", unix.EADDRNOTAVAIL):                  noPath,
		fmt.Errorf("%w: %w", errNotEntered, unix.EPERM):                    noPath,
		errNoAnswer:                     lost,
		errNoAddress:                    noPath,
		fmt.Errorf("%w", unix.EPERM):    denied,
		unix.ENOBUFS:                    noSlot,
		unix.ECONNREFUSED:               refused,
		unix.EHOSTUNREACH:               refused,
		os.ErrDeadlineExceeded:          lost,
		unix.ETIMEDOUT:                  lost,
		context.DeadlineExceeded:        lost,
		fmt.Errorf("%w", net.ErrClosed): refused,
		context.Canceled:                cancelled,
	} {
		if got := kindOf(err); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
}

func TestNameservers(t *testing.T) {
	got := nameservers("# nameserver 9.9.9.9\nnameserver 127.0.0.53\n nameserver 10.0.0.53 # office\nnameserver fe80::1%eth0\noptions x\nnameserver\nnameserver ::1\n")
	want := []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fe80::1")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAnswers(t *testing.T) {
	q := newQuery()
	reply := append([]byte(nil), q...)
	if answers(reply, q) {
		t.Error("a query is taken for its reply")
	}
	reply[2] |= flagQR
	if !answers(reply, q) || answers(reply[:headerLen-1], q) {
		t.Error("a reply is not recognised, or a part of one is")
	}
	reply[0]++
	if answers(reply, q) {
		t.Error("another ID")
	}
}

func TestIsProbe(t *testing.T) {
	for workload, want := range map[string]bool{
		"": false, "/a/sotto-path-test-12": true, "/sotto-path-test-12/a": false, "/a/b": false,
	} {
		if got := IsProbe(workload); got != want {
			t.Errorf("%q: %v", workload, got)
		}
	}
}
