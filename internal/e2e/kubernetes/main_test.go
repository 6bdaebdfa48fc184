// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"

	"sotto/internal/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

type world struct{ *e2e.World }

func newWorld(t *testing.T) world {
	t.Helper()
	return world{e2e.New(t)}
}
