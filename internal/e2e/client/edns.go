// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"sotto/internal/ednstest"
)

// ednsQuestions sends the queries of ISC's EDNS compliance tester to each nameserver, over UDP
// and TCP, and checks every reply.
func ednsQuestions(servers []string) error {
	var errs []error
	for _, s := range servers {
		for _, q := range ednstest.Questions {
			for _, proto := range []string{"udp", "tcp"} {
				reply, err := Exchange(proto, net.JoinHostPort(s, "53"), q.Query())
				if err == nil {
					err = q.Check(reply, proto == "udp")
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("%s to %s over %s: %w", q.Name, s, proto, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// Exchange sends a query from a connected socket and returns the reply.
func Exchange(proto, at string, query []byte) ([]byte, error) {
	c, err := net.Dial(proto, at)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if c.RemoteAddr().String() != at {
		return nil, fmt.Errorf("the peer is %s", c.RemoteAddr())
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if proto == "tcp" {
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
			return nil, err
		}
		var length uint16
		if err := binary.Read(c, binary.BigEndian, &length); err != nil {
			return nil, err
		}
		reply := make([]byte, length)
		_, err := io.ReadFull(c, reply)
		return reply, err
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	reply := make([]byte, 65535)
	n, err := c.Read(reply)
	return reply[:n], err
}
