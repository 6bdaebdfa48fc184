// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/wire"
)

// kernelDrop is a query for a name that the guard dropped.
func kernelDrop(t *testing.T, name string) Drop {
	t.Helper()
	d := Drop{
		Time: time.Unix(7, 0), Workload: "/s/x", Process: Process{PID: 7, UID: 0, Comm: "raw"},
		Client: netip.MustParseAddrPort("198.51.100.1:40000"), Nameserver: netip.MustParseAddrPort("192.0.2.53:53"),
		Source: FromGuard, Reason: "stopped_socket", Text: "plain queries",
	}
	if name != "" {
		wireName, err := wire.AppendParsed(nil, name)
		if err != nil {
			t.Fatal(err)
		}
		d.Message = append(append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, wireName...), 0, 28, 0, 1)
	}
	return d
}

// TestDropFilters: which queries without a reply a filter selects.
func TestDropFilters(t *testing.T) {
	for _, tc := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "a.b.example./guard /hooks b.example./sotto /sotto c.example./"},
		{Filter{Rcode: "none"}, "a.b.example./guard /hooks b.example./sotto /sotto"},
		{Filter{Rcode: "None", Name: "b.example"}, "a.b.example./guard b.example./sotto"},
		{Filter{Rcode: "NOERROR"}, "c.example./"},
		{Filter{Name: "."}, "a.b.example./guard b.example./sotto c.example./"},
		{Filter{Type: "AAAA"}, "a.b.example./guard b.example./sotto c.example./"},
		{Filter{Type: "TYPE0"}, ""},
		{Filter{Workload: "/s"}, "a.b.example./guard /hooks"},
		{Filter{Source: "guard"}, "a.b.example./guard"},
		{Filter{Source: "sotto"}, "b.example./sotto /sotto"},
		{Filter{Min: time.Millisecond}, "b.example./sotto"},
	} {
		var h Hub
		tr := h.Trace(tc.f)
		h.KernelDropped(kernelDrop(t, "a.b.example."))
		hook := kernelDrop(t, "")
		hook.Source = FromHooks
		h.KernelDropped(hook)
		e := event(t, "b.example.", "/t", 0, forwarder.FromSotto, time.Millisecond)
		e.Drop = forwarder.DropClientGone
		h.Dropped(e)
		h.Dropped(forwarder.Event{Drop: forwarder.DropShort})
		h.Observe(event(t, "c.example.", "/t", 0, forwarder.FromCache, 0))
		var got []string
		for len(tr.Events()) > 0 {
			r := <-tr.Events()
			if r.Dropped == "" {
				r.Source = ""
			}
			got = append(got, r.Name+"/"+r.Source)
		}
		tr.Close()
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%+v: %q, want %q", tc.f, got, tc.want)
		}
	}
}

// TestDropRecords: what a trace shows of queries without a reply.
func TestDropRecords(t *testing.T) {
	var h Hub
	tr := h.Trace(Filter{})
	defer tr.Close()
	d := kernelDrop(t, "a.example.")
	d.TCP, d.Passed, d.Lost = true, true, 5
	h.KernelDropped(d)
	got, want := <-tr.Events(), Record{
		Time: d.Time, Workload: "/s/x", Process: d.Process, Client: d.Client, Nameserver: d.Nameserver, Proto: "tcp", Name: "a.example.", Type: "AAAA",
		Source: "guard", Dropped: "stopped_socket", Passed: true, Error: "plain queries",
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if lost := tr.Lost(); lost != 5 {
		t.Errorf("%d lost, want 5", lost)
	}
	d.Message = []byte("who is it?") // neither a header nor a question
	h.KernelDropped(d)
	if got = <-tr.Events(); got.Name != "" || got.Type != "" {
		t.Errorf("%+v of an unreadable message", got)
	}
	e := event(t, "a.example.", "/s", 0, forwarder.FromSotto, time.Millisecond)
	e.Drop, e.Err = forwarder.DropSend, errors.New("sendmmsg: operation not permitted")
	h.Dropped(e)
	if got = <-tr.Events(); got.Dropped != "send_failed" || got.Rcode != "" || got.Source != "sotto" || got.Error != "the kernel refused to send the reply: sendmmsg: operation not permitted" {
		t.Errorf("%+v", got)
	}
	h.Dropped(forwarder.Event{Drop: forwarder.DropShort})
	h.Dropped(forwarder.Event{Drop: forwarder.DropShort})
	if got, want := fmt.Sprint(h.Unanswered()), "map[send_failed:1 short:2]"; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	if total := h.Totals().Queries; total != 0 {
		t.Errorf("%d replies", total)
	}
}

// TestDropAllocates: without a trace a query without a reply allocates nothing.
func TestDropAllocates(t *testing.T) {
	var h Hub
	e := event(t, "a.example.", "/s", 0, forwarder.FromSotto, 0)
	e.Drop = forwarder.DropResponse
	if n := testing.AllocsPerRun(100, func() { h.Dropped(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
