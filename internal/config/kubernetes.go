// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"

	"sotto/forwarder/rules"
	"sotto/internal/kubernetes/cluster"
	"sotto/internal/kubernetes/kubelet"
	"sotto/internal/kubernetes/pods"
)

// Values of the setting cluster.
const (
	ClusterAuto = "auto" // if the node's kubelet is found, or the settings have a domain and a resolver
	ClusterOn   = "on"   // an error otherwise
	ClusterOff  = "off"
)

// KubernetesBlock is [kubernetes].
type KubernetesBlock struct {
	Cluster       string   `toml:"cluster"`
	KubeletConfig string   `toml:"kubelet-config"`
	ClusterDomain []string `toml:"cluster-domain"`
	ClusterDNS    []string `toml:"cluster-dns"`
	ServiceCIDR   []string `toml:"service-cidr"`
	PodCIDR       []string `toml:"pod-cidr"`
	Elsewhere     string   `toml:"elsewhere"`

	OptOut     string `toml:"opt-out"`
	PodsFile   string `toml:"pods-file"`
	CgroupRoot string `toml:"cgroup-root"`
}

func defaultKubernetes() KubernetesBlock {
	return KubernetesBlock{Cluster: ClusterAuto, Elsewhere: string(cluster.Auto), OptOut: string(pods.OptOutOff), PodsFile: "/run/sotto-pods/pods.json"}
}

// KubernetesPlan is what Sotto knows about the cluster that this machine is a node of.
type KubernetesPlan struct {
	Cluster   cluster.Cluster
	Source    string // of Cluster, for logs
	Elsewhere cluster.Elsewhere
	Pods      pods.Settings

	// Pending is set if the kubelet may know more later: see [Plan.WithKubelet].
	Pending bool

	warnings []string
}

// Kubernetes finds the kubelet of this node. The zero value finds nothing.
type Kubernetes struct {
	// Kubelet returns the configuration of the kubelet, which is in file, unless that is "". Nil:
	// there is none.
	Kubelet func(file string) (kubelet.Found, error)

	// Service is the address of the API server's service ($KUBERNETES_SERVICE_HOST), which
	// processes in a pod know, or "".
	Service string
}

// planKubernetes reads the table [kubernetes].
func (s *Settings) planKubernetes(o Options) (p KubernetesPlan, err error) {
	k := s.Kubernetes
	switch p.Elsewhere = cluster.Elsewhere(k.Elsewhere); p.Elsewhere {
	case cluster.Auto, cluster.NXDomain, cluster.Forward:
	default:
		return p, s.invalidf("kubernetes.elsewhere", "unknown value %q: want %s, %s or %s", k.Elsewhere, cluster.Auto, cluster.NXDomain, cluster.Forward)
	}
	p.Pods = pods.Settings{File: k.PodsFile, CgroupRoot: k.CgroupRoot, OptOut: pods.OptOut(k.OptOut)}
	switch p.Pods.OptOut {
	case pods.OptOutOff, pods.OptOutNamespaces, pods.OptOutPods:
	default:
		return p, s.invalidf("kubernetes.opt-out", "unknown value %q: want %s, %s or %s", k.OptOut, pods.OptOutOff, pods.OptOutNamespaces, pods.OptOutPods)
	}
	if k.PodsFile != "" && !strings.HasPrefix(k.PodsFile, "/") {
		return p, s.invalidf("kubernetes.pods-file", "%q is not an absolute path: want one such as /run/sotto-pods/pods.json", k.PodsFile)
	}
	if err := s.parseCluster(&p.Cluster); err != nil {
		return p, err
	}
	switch k.Cluster {
	case ClusterOff:
		p.Cluster = cluster.Cluster{}
		return p, nil
	case ClusterAuto, ClusterOn:
	default:
		return p, s.invalidf("kubernetes.cluster", "unknown value %q: want %s, %s or %s", k.Cluster, ClusterAuto, ClusterOn, ClusterOff)
	}
	if err := s.findCluster(o.Kubernetes, &p); err != nil {
		return p, err
	}
	return p, s.checkCluster(o.Kubernetes, &p)
}

// parseCluster reads what the settings say about the cluster.
func (s *Settings) parseCluster(c *cluster.Cluster) error {
	for i, domain := range s.Kubernetes.ClusterDomain {
		if err := checkDomain(domain); err != nil {
			return s.invalid(fmt.Sprintf("kubernetes.cluster-domain[%d]", i), err)
		}
	}
	c.Domains = s.Kubernetes.ClusterDomain
	for i, text := range s.Kubernetes.ClusterDNS {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return s.invalidf(fmt.Sprintf("kubernetes.cluster-dns[%d]", i), "%q is not an address: want one such as 10.96.0.10", text)
		}
		c.DNS = append(c.DNS, a.Unmap().WithZone(""))
	}
	for _, n := range []struct {
		key  string
		from []string
		to   *[]netip.Prefix
	}{{"service-cidr", s.Kubernetes.ServiceCIDR, &c.Services}, {"pod-cidr", s.Kubernetes.PodCIDR, &c.Pods}} {
		for i, text := range n.from {
			p, err := netip.ParsePrefix(text)
			if err != nil || p != p.Masked() || p.Addr().Is4In6() {
				return s.invalidf(fmt.Sprintf("kubernetes.%s[%d]", n.key, i), "%q is not a network: want one such as 10.96.0.0/12", text)
			}
			*n.to = append(*n.to, p)
		}
	}
	return nil
}

var errRootDomain = errors.New("it is the root, which contains every name: want a domain such as cluster.local")

// checkDomain reports whether a domain is a name that a rule can have.
func checkDomain(domain string) error {
	if strings.Trim(domain, ".") == "" {
		return errRootDomain
	}
	var in *rules.Error
	if _, err := rules.Compile([]rules.Rule{{Names: []string{domain}}}); errors.As(err, &in) {
		return in.Err
	}
	return nil
}

// findCluster adds what the kubelet knows to the settings. If the kubelet was not named, errors
// are warnings: the configuration of another program must not keep queries from being answered.
func (s *Settings) findCluster(k Kubernetes, p *KubernetesPlan) error {
	if k.Kubelet == nil {
		return nil
	}
	found, err := k.Kubelet(s.Kubernetes.KubeletConfig)
	p.Pending = found.Pending || err != nil
	if err == nil && p.Pods.CgroupRoot == "" { // also if the domain is invalid
		p.Pods.CgroupRoot = found.CgroupRoot
	}
	if err == nil && found.ClusterDomain != "" {
		if err = checkDomain(found.ClusterDomain); err != nil {
			err = fmt.Errorf("%s: clusterDomain: %w", found.Source, err)
		}
	}
	switch {
	case err == nil:
	case s.Kubernetes.KubeletConfig != "":
		return s.At("kubernetes.kubelet-config", err)
	case s.Kubernetes.Cluster == ClusterOn:
		return s.At("kubernetes.cluster", err)
	default:
		p.warnings = append(p.warnings, fmt.Sprintf("the cluster of this node is not known: %v; set cluster-domain and cluster-dns in [kubernetes]", err))
		return nil
	}
	p.Source = found.Source
	if len(p.Cluster.Domains) == 0 && found.ClusterDomain != "" {
		p.Cluster.Domains = []string{found.ClusterDomain}
	}
	if len(p.Cluster.DNS) == 0 {
		p.Cluster.DNS = found.ClusterDNS
	}
	return nil
}

// findCgroupRoot asks the kubelet where the cgroups of pods are, if rules need that and
// [ClusterOff] kept findCluster from asking. Errors are warnings, as there.
func (s *Settings) findCgroupRoot(k Kubernetes, p *KubernetesPlan) {
	if s.Kubernetes.Cluster != ClusterOff || !p.Pods.Enabled || p.Pods.CgroupRoot != "" || k.Kubelet == nil {
		return
	}
	found, err := k.Kubelet(s.Kubernetes.KubeletConfig)
	p.Pending = found.Pending || err != nil
	if err != nil {
		p.warnings = append(p.warnings, fmt.Sprintf("the kubelet's cgroupRoot is not known: %v; set cgroup-root in [kubernetes]", err))
		return
	}
	p.Pods.CgroupRoot = found.CgroupRoot
}

const pendingText = "no running kubelet with a configuration was found, so names of the cluster are not resolved until there is one: " +
	"set kubelet-config (the kubelet's file) in [kubernetes], or cluster = \"off\" if this machine is not a node"

// checkCluster completes the cluster, and reports what is missing.
func (s *Settings) checkCluster(k Kubernetes, p *KubernetesPlan) error {
	c := &p.Cluster
	if !c.Known() {
		const fix = "set cluster-domain and cluster-dns in [kubernetes]"
		switch {
		case s.Kubernetes.Cluster == ClusterOn:
			return s.invalidf("kubernetes.cluster", "the kubelet's configuration was not found, or has no clusterDomain and clusterDNS: %s", fix)
		case p.Pending && len(p.warnings) == 0:
			p.warnings = append(p.warnings, pendingText)
		case p.Source != "" || k.Service != "" || len(c.Domains)+len(c.DNS) > 0:
			p.warnings = append(p.warnings, "the cluster's domain or resolver is not known, so its names are not resolved: "+fix)
		}
		*c = cluster.Cluster{}
		return nil
	}
	if p.Source == "" {
		p.Source = "settings"
	}
	if len(c.Services) > 0 {
		return nil
	}
	candidates := c.DNS
	if service, err := netip.ParseAddr(k.Service); err == nil {
		candidates = append([]netip.Addr{service}, candidates...)
	}
	for _, a := range candidates {
		if around, ok := cluster.Around(a); ok {
			c.Around = append(c.Around, around)
		}
	}
	if len(c.Around) == 0 {
		p.warnings = append(p.warnings, "the network of services is not known, so a cache on this node cannot ask the cluster's resolver for its names: set service-cidr in [kubernetes]")
	}
	return nil
}

// planPods reads what depends on the kubelet: the cluster, the rules, and where pods are. kept has
// files that were read before.
func (s *Settings) planPods(o Options, p *Plan, kept map[string][]byte) (err error) {
	if p.Kubernetes, err = s.planKubernetes(o); err != nil {
		return err
	}
	src := s.newSources(o, p.Groups, p.Kubernetes)
	if kept != nil {
		src.files = kept
	}
	if p.Rules, err = s.planRules(src); err != nil {
		return err
	}
	k := &p.Kubernetes
	if k.Pods.Enabled = p.Rules.Set.UsesPods(); !p.Rules.Set.UsesLabels() {
		k.Pods.File = ""
	}
	s.findCgroupRoot(o.Kubernetes, k)
	needsCluster := s.Kubernetes.Cluster != ClusterOff && (len(s.Kubernetes.ClusterDomain) == 0 || len(s.Kubernetes.ClusterDNS) == 0)
	k.Pending = k.Pending && (needsCluster || k.Pods.Enabled && s.Kubernetes.CgroupRoot == "")
	if !k.Pending && !s.hasLists() {
		src.files = nil // nothing reads the rules again
	}
	return nil
}

// WithKubelet returns the plan with the configuration of the kubelet, if Kubernetes.Pending is set and
// it is known now. Everything else is as in p, also if files have changed since. It reports
// whether anything that matters for queries has changed.
func (p Plan) WithKubelet() (now Plan, changed bool, err error) {
	src := p.Rules.sources
	if !p.Kubernetes.Pending {
		return p, false, nil
	}
	if found, err := src.options.Kubernetes.Kubelet(src.settings.Kubernetes.KubeletConfig); err != nil || found.Pending {
		return p, false, err
	}
	now = p
	if err := src.settings.planPods(src.options, &now, src.files); err != nil {
		return p, false, err
	}
	a, b := p.Kubernetes, now.Kubernetes
	if changed = !reflect.DeepEqual(a.Cluster, b.Cluster) || a.Pods != b.Pods; !changed {
		now.Rules = p.Rules // which are in force: a list may have been stored since
	}
	return now, changed, nil
}

// Report logs what the cluster is, and what is missing.
func (k *KubernetesPlan) Report(log *slog.Logger) {
	for _, text := range k.warnings {
		log.Warn("configuration: " + text)
	}
	if k.Cluster.Known() {
		log.Info("names of the cluster go to its resolver in plain DNS", "domains", k.Cluster.Domains, "resolvers", k.Cluster.DNS, "from", k.Source)
	}
}

// Builtin returns the name of a rule, numbered from 1, that is not in the configuration, or "".
func (r *Rules) Builtin(rule int) string {
	if i := rule - 1 - (len(r.Uses) - len(r.builtin)); i >= 0 && i < len(r.builtin) {
		return r.builtin[i]
	}
	return ""
}

// addBuiltin appends the built-in rules to list.
func (k *KubernetesPlan) addBuiltin(p *Rules, list []rules.Rule) []rules.Rule {
	add := func(name string, r rules.Rule, use string) {
		r.Use, r.IfKnown = use, use == UsePlain
		list = append(list, r)
		p.builtin, p.Uses, p.Records = append(p.builtin, name), append(p.Uses, use), append(p.Records, nil)
	}
	if k.Pods.OptOut != pods.OptOutOff && k.Pods.OptOut != "" {
		add(cluster.RuleOptOut, rules.Rule{OptedOut: true}, UsePlain)
	}
	if !k.Cluster.Known() {
		return list
	}
	add(cluster.RuleNames, k.Cluster.InCluster(), UsePlain)
	if out, ok := k.Cluster.OutOfCluster(k.Elsewhere); ok {
		add(cluster.RuleElsewhere, out, UseNXDomain)
	}
	return list
}
