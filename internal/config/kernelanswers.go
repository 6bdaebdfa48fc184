// SPDX-License-Identifier: Apache-2.0

package config

// Values of kernel-answers.
const (
	KernelAnswersOn  = "on"
	KernelAnswersOff = "off"
)

const (
	// defaultKernelEntries is the number of names that a busy machine asks for repeatedly within minutes.
	// Entries take about 1.3 KB each, a quarter for long answers included.
	defaultKernelEntries = 4096

	minKernelEntries = 16
	maxKernelEntries = 1 << 20
)

// KernelAnswers describes whether the kernel answers cached queries.
type KernelAnswers struct {
	On      bool
	Entries int // answers of up to 512 bytes; a quarter as many longer ones are added
}

// Off returns why the kernel must not answer by the settings of a plan, or "" if it may.
func (k *KernelAnswers) Off(p *Plan) string {
	switch {
	case !k.On:
		return `kernel-answers = "off"`
	case p.Cache.MaxBytes == 0:
		return "there is no cache (cache-mib = 0)"
	case p.LogQueries:
		return "each query is logged (log-queries)"
	case p.QueryLog.File != "":
		return "each query is logged (query-log)"
	case p.Dnstap.On() && p.Dnstap.Client:
		return "each message is recorded (dnstap-messages)"
	}
	return ""
}

// planKernelAnswers reads the settings of answers in the kernel.
func (s *Settings) planKernelAnswers(p *Plan) error {
	switch s.KernelAnswers {
	case KernelAnswersOn, KernelAnswersOff:
	default:
		return s.invalidf("kernel-answers", "unknown value %q: want %s or %s", s.KernelAnswers, KernelAnswersOn, KernelAnswersOff)
	}
	if n := s.KernelAnswersEntries; n < minKernelEntries || n > maxKernelEntries {
		return s.invalidf("kernel-answers-entries", "it is %d: want %d to %d", n, minKernelEntries, maxKernelEntries)
	}
	p.KernelAnswers = KernelAnswers{On: s.KernelAnswers == KernelAnswersOn, Entries: s.KernelAnswersEntries}
	return nil
}
