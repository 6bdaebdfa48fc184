// SPDX-License-Identifier: Apache-2.0

package intercept

import "testing"

// A clean stop begins with the hooks: queries go where they are sent while the
// listener is still there.
func TestDetach(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	c.want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	for range 2 {
		if err := s.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	c.want("socket b udp4 => ok\nconnect b 8.8.8.8:53 => ok\nsend b => ok\nrecv b => ECONNREFUSED") // nobody serves the LAN
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
}

// What fails by itself stays closed, for another process to adopt or to clear.
func TestAbandon(t *testing.T) {
	s := openSeal(t, nil)
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close after abandon: %v", err)
	}
	if there, err := hooked(pinDir(s.cfg.BPFFS, s.cfg.Name)); !there || err != nil {
		t.Errorf("the hooks are gone: %v", err)
	}
	next := openAt(t, s.host, s.cfg)
	if !next.kernel.adopted {
		t.Error("the maps were not adopted")
	}
	if err := next.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := downAt(s.host, s.cfg); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
}
