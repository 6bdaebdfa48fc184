// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"fmt"
	"strings"
)

// Pod is what is known about the Kubernetes pod that a query comes from.
type Pod struct {
	Name string // NAMESPACE/NAME; "": not known (yet)

	// LabelsKnown is set if the fields below are known. They may still be empty.
	LabelsKnown     bool
	Labels          map[string]string
	NamespaceLabels map[string]string
	OptedOut        bool // the pod asks not to be sealed
}

// truth is the result of a condition that depends on what may not be known.
type truth uint8

const (
	isFalse truth = iota
	isUnknown
	isTrue
)

func truthOf(is bool) truth {
	if is {
		return isTrue
	}
	return isFalse
}

// podConditions are the conditions on the pod of a query.
type podConditions struct {
	names           []glob
	labels          []selector
	namespaceLabels []selector
	optedOut        bool
	orNone          bool // an unknown result counts as no
}

// none reports whether there are no conditions.
func (c *podConditions) none() bool {
	return len(c.names)+len(c.labels)+len(c.namespaceLabels) == 0 && !c.optedOut
}

// met reports whether a pod meets the conditions. p is nil for a workload that is not a pod.
func (c *podConditions) met(p *Pod) truth {
	if p == nil {
		return isFalse
	}
	result := isTrue
	if len(c.names) > 0 {
		result = isUnknown
		if p.Name != "" {
			result = truthOf(anyMatches(c.names, p.Name))
		}
	}
	switch {
	case len(c.labels)+len(c.namespaceLabels) == 0 && !c.optedOut:
	case !p.LabelsKnown:
		result = min(result, isUnknown)
	case c.optedOut && !p.OptedOut,
		len(c.labels) > 0 && !anySelects(c.labels, p.Labels),
		len(c.namespaceLabels) > 0 && !anySelects(c.namespaceLabels, p.NamespaceLabels):
		result = isFalse
	}
	if result == isUnknown && c.orNone {
		return isFalse
	}
	return result
}

func anyMatches(globs []glob, s string) bool {
	for i := range globs {
		if globs[i].match(s) {
			return true
		}
	}
	return false
}

func anySelects(selectors []selector, labels map[string]string) bool {
	for _, s := range selectors {
		if s.selects(labels) {
			return true
		}
	}
	return false
}

// selector is a list of requirements that labels have to meet all of.
type selector []requirement

// requirement is one of key, !key, key=value and key!=value. As in Kubernetes, key!=value is
// also met if there is no such label.
type requirement struct {
	key, value string
	compares   bool // the value, instead of whether there is one
	negated    bool
}

func (s selector) selects(labels map[string]string) bool {
	for _, r := range s {
		value, has := labels[r.key]
		if met := has && (!r.compares || value == r.value); met == r.negated {
			return false
		}
	}
	return true
}

var (
	errSelectorEmpty = errors.New(`it is empty: write a label such as "app=web"`)
	errSelectorSet   = errors.New(`"in" and "notin" are not supported: write an alternative such as "app=web" for each value`)
)

// maxLabelKey and maxLabelValue are Kubernetes' limits: a prefix of 253 characters, a slash
// and a name of 63, and a value of 63.
const (
	maxLabelKey   = 253 + 1 + 63
	maxLabelValue = 63
)

// parseSelector parses requirements that are separated by commas, in the syntax of `kubectl
// get --selector` without its sets of values.
func parseSelector(text string) (s selector, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, errSelectorEmpty
	}
	if strings.ContainsAny(text, "()") {
		return nil, errSelectorSet
	}
	for part := range strings.SplitSeq(text, ",") {
		r := requirement{key: strings.TrimSpace(part)}
		if key, value, found := strings.Cut(part, "="); found {
			r.compares = true
			key, r.negated = strings.CutSuffix(key, "!")
			r.key, r.value = strings.TrimSpace(key), strings.TrimSpace(strings.TrimPrefix(value, "="))
		} else if key, found := strings.CutPrefix(r.key, "!"); found {
			r.key, r.negated = strings.TrimSpace(key), true
		}
		if !isLabelText(strings.Replace(r.key, "/", "", 1), maxLabelKey) || r.key == "" {
			return nil, fmt.Errorf(`%q is not the key of a label: write KEY=VALUE, KEY!=VALUE, KEY or !KEY`, r.key)
		}
		if !isLabelText(r.value, maxLabelValue) {
			return nil, fmt.Errorf("%q is not the value of a label: it has at most %d letters, digits, dashes, dots and underscores", cut(r.value), maxLabelValue)
		}
		s = append(s, r)
	}
	return s, nil
}

// isLabelText reports whether s has only the characters that keys and values of labels have.
func isLabelText(s string, most int) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return len(s) <= most
}

var errPodName = errors.New(`a pod is written as NAMESPACE/NAME, such as "shop/web-*" or "shop/*"`)

// compilePods compiles the conditions on pods of r. number is for errors.
func (r *Rule) compilePods(number int) (c podConditions, err error) {
	for _, s := range r.Pods {
		g, err := compileGlob(s)
		if err == nil && strings.Count(s, "/") != 1 && s != "**" {
			err = errPodName
		}
		if err != nil {
			return c, &Error{number, "pods", fmt.Errorf("%q: %w", cut(s), err)}
		}
		c.names = append(c.names, g)
	}
	for _, l := range []struct {
		field string
		from  []string
		to    *[]selector
	}{{"pod labels", r.PodLabels, &c.labels}, {"namespace labels", r.NamespaceLabels, &c.namespaceLabels}} {
		for _, s := range l.from {
			sel, err := parseSelector(s)
			if err != nil {
				return c, &Error{number, l.field, fmt.Errorf("%q: %w", cut(s), err)}
			}
			*l.to = append(*l.to, sel)
		}
	}
	c.optedOut, c.orNone = r.OptedOut, r.IfKnown
	return c, nil
}
