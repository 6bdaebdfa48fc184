// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"time"

	"sotto/forwarder"
)

// The forwarder waits as long as the settings of a group say.
var _ forwarder.Patient = (*member)(nil)

// Timeout implements [forwarder.Patient].
func (m *member) Timeout() time.Duration { return m.servers.Timeout() }

// retireTime is how long after a change of the router a query may still reach, or wait at, a
// group of the old router: the timeout of a query, and two seconds for delays in between.
func (m *member) retireTime() time.Duration { return m.Timeout() + 2*time.Second }
