// SPDX-License-Identifier: Apache-2.0

// Package labtest is internal/netlab for tests: labs and cgroups that go with the
// test, also when it failed, and skips that are honest. Without root a test
// that needs it is skipped and says so; with SOTTO_REQUIRE_PRIVILEGED=1, as
// scripts/test.sh sets it, the same skip is a failure.
package labtest
