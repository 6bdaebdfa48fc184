// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"fmt"
	"math"
	"os"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// draws is the number of samples. With so many, using only half of the values is 20
// standard deviations away from using all of them.
const draws = 8000

// TestIDsAndPortsAreRandom: what an off-path attacker has to guess is chosen from all values,
// independently: the ID for each query, the port for each socket.
func TestIDsAndPortsAreRandom(t *testing.T) {
	for name, reuse := range map[string]bool{"new sockets": false, "reused sockets": true} {
		t.Run(name, func(t *testing.T) { checkRandom(t, reuse) })
	}
}

func checkRandom(t *testing.T, reuse bool) {
	var mu sync.Mutex
	var ids, ports []int
	z := zone(t)
	s := serve(t, loopback, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		mu.Lock()
		defer mu.Unlock()
		ids, ports = append(ids, int(wire.ID(r.Query))), append(ports, int(r.Remote.Port()))
		return z.Answer(r)
	}))
	c := New(Config{})
	defer c.Close()
	c.reuse = reuse
	for range draws {
		if _, err := c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), false, inAWhile()); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	const all = 1 << 16
	type series struct {
		name   string
		values []int
		of     int
	}
	var steps, apart, near []int
	for i := range ids {
		apart = append(apart, (ids[i]-ports[i]+all)%all)
		if i > 0 {
			steps = append(steps, (ids[i]-ids[i-1]+all)%all)
			near = append(near, max(ports[i]-ports[i-1], ports[i-1]-ports[i]))
		}
	}
	low, high := portRange(t)
	check := []series{{"IDs", ids, all}, {"steps from one ID to the next", steps, all}, {"differences of ID and port", apart, all}}
	if !reuse {
		check = append(check, series{"ports", ports, high - low + 1})
		if err := seldomNear(near, high-low+1); err != nil {
			t.Errorf("ports: %v", err)
		}
	}
	for _, series := range check {
		if err := looksUniform(series.values, series.of); err != nil {
			t.Errorf("%s: %v", series.name, err)
		}
	}
}

// deviations is the accepted number of standard deviations from the mean. For random
// values the probability of more is below 1e-12.
const deviations = 9

// looksUniform counts the pairs of equal values. Of n uniform draws from m values each
// pair is equal with probability 1/m, and any two pairs are independent. Fewer values
// give more such pairs, and a counter gives none.
func looksUniform(values []int, m int) error {
	seen, equal := map[int]int{}, 0
	for _, v := range values {
		equal += seen[v]
		seen[v]++
	}
	pairs := float64(len(values)) * float64(len(values)-1) / 2
	mean, dev := pairs/float64(m), math.Sqrt(pairs/float64(m)*(1-1/float64(m)))
	if math.Abs(float64(equal)-mean) > deviations*dev {
		return fmt.Errorf("%d pairs are equal, of %d values from %d: want %.0f ± %.0f", equal, len(values), m, mean, deviations*dev)
	}
	return nil
}

// seldomNear counts the short steps. A step of at most d has a probability of at most
// (2d+1)/m.
func seldomNear(steps []int, m int) error {
	d, n := m/300, 0
	for _, s := range steps {
		if s <= d {
			n++
		}
	}
	mean := float64(len(steps)) * float64(2*d+1) / float64(m)
	if float64(n) > mean+deviations*math.Sqrt(mean) {
		return fmt.Errorf("%d of %d steps are at most %d: want %.0f", n, len(steps), d, mean)
	}
	return nil
}

// portRange returns the range that the kernel chooses ports from.
func portRange(t *testing.T) (low, high int) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		t.Fatal(err)
	}
	return low, high
}
