// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"testing"

	"sotto/internal/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }
