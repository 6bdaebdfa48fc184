// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// addIngress gives an interface of a host the queueing discipline ingress, which other software
// uses to limit what arrives.
func addIngress(t *testing.T, host *netlab.Host, name string) {
	t.Helper()
	withLink(t, host, name, func(h *netlink.Handle, l netlink.Link) error {
		return h.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
		}})
	})
}

func withLink(t *testing.T, host *netlab.Host, name string, do func(*netlink.Handle, netlink.Link) error) {
	t.Helper()
	h, err := host.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err == nil {
		err = do(h, link)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The queueing discipline ingress of other software has no place for filters on egress. The guard
// attaches by a tcx link there. Without tcx (before Linux 6.6) the seal does not start, and leaves
// no filter.
func TestGuardBesideIngress(t *testing.T) {
	for name, change := range map[string]func(*Config){"run": nil, "exec": func(c *Config) { c.Ephemeral = true }, "no tcx": nil} {
		t.Run(name, func(t *testing.T) {
			s := &testSeal{}
			s.lab, s.host, s.lan = labtest.LAN(t)
			s.group = s.unsealed(t, "work")
			addIngress(t, s.host, netlab.HostIf)
			cfg := sealTestConfig(t, s.group)
			if change != nil {
				change(&cfg)
			}
			s.Instance = openAt(t, s.host, cfg)
			s.stopListening = listen(t, s.Instance)
			if name == "no tcx" {
				s.guard.UseFilters()
			}
			err := s.Attach()
			if name != "no tcx" && !s.guard.UsesFilters() {
				if err != nil {
					t.Fatal(err)
				}
				testPinned(t, s)
			} else if err == nil || !strings.Contains(err.Error(), netlab.HostIf) || !strings.Contains(err.Error(), "clsact") {
				t.Errorf("attached, or no reason: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			withLink(t, s.host, netlab.HostIf, func(h *netlink.Handle, l netlink.Link) error {
				filters, err := h.FilterList(l, netlink.HANDLE_MIN_INGRESS)
				if len(filters) != 0 {
					t.Errorf("left %v", filters)
				}
				qdiscs, errQ := h.QdiscList(l)
				if errQ != nil || !strings.Contains(qdiscKinds(qdiscs), "ingress") {
					t.Errorf("the queueing disciplines are %s; %v", qdiscKinds(qdiscs), errQ)
				}
				return err
			})
		})
	}
}

func qdiscKinds(all []netlink.Qdisc) string {
	var kinds []string
	for _, q := range all {
		kinds = append(kinds, q.Type())
	}
	return strings.Join(kinds, " ")
}
