// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const chart = "../helm/sotto"

// object is one Kubernetes object.
type object map[string]any

// name identifies an object.
func (o object) name() string {
	meta, _ := o["metadata"].(map[string]any)
	return fmt.Sprintf("%v %v", o["kind"], meta["name"])
}

// at returns the value at a path of fields, or nil.
func (o object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

// objects are those of one rendering, by name.
type objects map[string]object

// parse reads YAML documents.
func parse(t *testing.T, text string) objects {
	t.Helper()
	all := objects{}
	for _, doc := range regexp.MustCompile(`(?m)^---.*$`).Split(text, -1) {
		var o object
		if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
			t.Fatalf("%v:\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		if all[o.name()] != nil {
			t.Errorf("two objects %s", o.name())
		}
		all[o.name()] = o
	}
	return all
}

// hashed are the names that kustomize gives to ConfigMaps, with a hash of their content.
var hashed = regexp.MustCompile(`\b(sotto|sotto-forwarder)-[0-9a-z]{10}\b`)

// kustomize renders folders of deploy/kubernetes, the later ones being components. The hashes in
// names of ConfigMaps are removed.
func kustomize(t *testing.T, base string, components ...string) objects {
	t.Helper()
	fs := filesys.MakeFsOnDisk()
	dir := filepath.Join(t.TempDir(), "kubernetes")
	copyTree(t, "../kubernetes", dir)
	text := "resources: [../" + base + "]\n"
	if len(components) > 0 {
		text += "components: [../" + strings.Join(components, ", ../") + "]\n"
	}
	text += "namespace: " + map[string]string{"base": "sotto", "forwarder": "sotto-forwarder"}[base] + "\n"
	if err := fs.MkdirAll(dir + "/test"); err != nil {
		t.Fatal(err)
	}
	if err := fs.WriteFile(dir+"/test/kustomization.yaml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, dir+"/test")
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, hashed.ReplaceAllString(string(out), "$1"))
}

// copyTree copies a folder, so that an overlay can be put beside it.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	fs := filesys.MakeFsOnDisk()
	err := fs.Walk(from, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || info.IsDir() {
			return err
		}
		text, err := fs.ReadFile(path)
		if err != nil {
			return err
		}
		if err := fs.MkdirAll(filepath.Dir(filepath.Join(to, rel))); err != nil {
			return err
		}
		return fs.WriteFile(filepath.Join(to, rel), text)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// helm renders the chart with values, which are YAML.
func helm(t *testing.T, namespace, values string) (objects, error) {
	t.Helper()
	c, err := loader.Load(chart)
	if err != nil {
		t.Fatal(err)
	}
	v, err := common.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	caps := common.DefaultCapabilities.Copy()
	all, err := util.ToRenderValues(c, v, common.ReleaseOptions{Name: "sotto", Namespace: namespace, IsInstall: true}, caps)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for name, file := range files {
		if filepath.Ext(name) == ".yaml" {
			_, _ = io.WriteString(&text, "\n---\n"+file)
		}
	}
	return parse(t, text.String()), nil
}

// TestLint: helm lint finds nothing.
func TestLint(t *testing.T) {
	for _, values := range []map[string]any{nil, {"forwarder": map[string]any{"enabled": true}}} {
		l := lint.RunAll(chart, values, "sotto")
		for _, m := range l.Messages {
			if m.Severity > support.InfoSev {
				t.Error(m.Error())
			}
		}
	}
}

// TestSameObjects: the chart renders what kustomize renders. Only the chart has an annotation with
// the hash of the configuration, where kustomize has it in the name; only kustomize has a
// namespace.
func TestSameObjects(t *testing.T) {
	for _, tc := range []struct {
		namespace, values string
		base              string
		components        []string
		least             int
	}{
		{"sotto", "", "base", nil, 3},
		{"sotto-forwarder", "node: {enabled: false}\nforwarder: {enabled: true}", "forwarder", nil, 5},
		{"sotto-forwarder", "node: {enabled: false}\nforwarder: {enabled: true, autoscaling: {enabled: true}, podMonitor: {enabled: true}, networkPolicy: {enabled: true}}",
			"forwarder", []string{"forwarder/monitoring", "forwarder/network-policy"}, 8},
	} {
		want := kustomize(t, tc.base, tc.components...)
		got, err := helm(t, tc.namespace, "image: {tag: latest}\n"+tc.values)
		if err != nil {
			t.Fatal(err)
		}
		delete(want, "Namespace "+tc.namespace)
		if len(want) < tc.least {
			t.Errorf("%s: kustomize renders %d objects", tc.base, len(want))
		}
		for name, o := range got {
			if annotations, ok := o.at("spec", "template", "metadata").(map[string]any); ok {
				delete(annotations, "annotations")
			}
			if want[name] == nil {
				t.Errorf("only the chart renders %s", name)
			}
		}
		for name, o := range want {
			if got[name] == nil {
				t.Errorf("the chart does not render %s", name)
				continue
			}
			if a, b := text(t, o), text(t, got[name]); a != b {
				t.Errorf("%s: kustomize renders\n%s\nthe chart\n%s", name, a, b)
			}
		}
	}
}

// text is an object as YAML, with sorted keys.
func text(t *testing.T, o object) string {
	t.Helper()
	b, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestValues: values arrive where they belong. A changed configuration changes the annotation that
// makes it a rolling update.
func TestValues(t *testing.T) {
	render := func(values string) object {
		t.Helper()
		all, err := helm(t, "dns", "node: {enabled: false}\nforwarder:\n  enabled: true\n"+values)
		if err != nil {
			t.Fatal(err)
		}
		return object{"all": map[string]any{"d": map[string]any(all["Deployment sotto-forwarder"]), "s": map[string]any(all["Service sotto-forwarder"]), "c": map[string]any(all["ConfigMap sotto-forwarder"])}}
	}
	plain := render("")
	full := render(`  config: "upstream = [\"192.0.2.1#dns.example\"]\n"
  files: {ca.pem: "a certificate"}
  replicas: 0
  secretName: keys
  tolerations: [{key: dns, operator: Exists}]
  service: {type: LoadBalancer, clusterIP: 10.96.0.53}
image: {repository: registry.example/sotto, tag: "1.2"}
imagePullSecrets: [{name: pull}]
`)
	for _, tc := range []struct {
		path []string
		want any
	}{
		{[]string{"c", "data", "ca.pem"}, "a certificate"},
		{[]string{"c", "data", "sotto.toml"}, "upstream = [\"192.0.2.1#dns.example\"]\n"},
		{[]string{"d", "spec", "replicas"}, 0.0},
		{[]string{"s", "spec", "clusterIP"}, "10.96.0.53"},
		{[]string{"s", "spec", "type"}, "LoadBalancer"},
		{[]string{"d", "metadata", "namespace"}, "dns"},
	} {
		if got := full.at(append([]string{"all"}, tc.path...)...); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.path, got, tc.want)
		}
		if got := plain.at(append([]string{"all"}, tc.path...)...); got == tc.want && tc.want != "dns" {
			t.Errorf("%v: %v without the value", tc.path, got)
		}
	}
	spec := text(t, full)
	for _, want := range []string{"image: registry.example/sotto:1.2", "key: dns", "name: pull", "secretName: keys", "mountPath: /etc/sotto-secret"} {
		if !strings.Contains(spec, want) {
			t.Errorf("no %q in\n%s", want, spec)
		}
	}
	annotation := []string{"all", "d", "spec", "template", "metadata", "annotations", "checksum/config"}
	if a, b := plain.at(annotation...), full.at(annotation...); a == nil || a == b {
		t.Errorf("the hashes of the configurations are %v and %v", a, b)
	}
}

// TestUnprivileged: the forwarder's pods satisfy the Pod Security Standard "restricted".
func TestUnprivileged(t *testing.T) {
	o := kustomize(t, "forwarder")["Deployment sotto-forwarder"]
	pod := object{"pod": o.at("spec", "template", "spec")}
	container, _ := pod.at("pod", "containers").([]any)[0].(map[string]any)
	c := object(container)
	for what, got := range map[string]any{
		"runAsNonRoot":   pod.at("pod", "securityContext", "runAsNonRoot"),
		"read-only root": c.at("securityContext", "readOnlyRootFilesystem"),
	} {
		if got != true {
			t.Errorf("%s: %v", what, got)
		}
	}
	if fmt.Sprint(c.at("securityContext", "capabilities")) != "map[drop:[ALL]]" || c.at("securityContext", "allowPrivilegeEscalation") != false ||
		pod.at("pod", "securityContext", "seccompProfile", "type") != "RuntimeDefault" || pod.at("pod", "hostNetwork") != nil {
		t.Errorf("%s", text(t, o))
	}
}

// TestState: pods can write lists, and nothing else that is on disk, since their root is read-only. Those of a
// node outlive the pod.
func TestState(t *testing.T) {
	for name, want := range map[string]string{
		"DaemonSet sotto":            "hostPath",
		"Deployment sotto-forwarder": "emptyDir",
	} {
		base := map[string]string{"hostPath": "base", "emptyDir": "forwarder"}[want]
		pod := object{"pod": kustomize(t, base)[name].at("spec", "template", "spec")}
		container, _ := pod.at("pod", "containers").([]any)[0].(map[string]any)
		volume := ""
		for _, m := range container["volumeMounts"].([]any) {
			if m := m.(map[string]any); m["mountPath"] == "/var/lib/sotto" && m["readOnly"] != true {
				volume = m["name"].(string)
			}
		}
		found := false
		for _, v := range pod.at("pod", "volumes").([]any) {
			v := v.(map[string]any)
			found = found || v["name"] == volume && v[want] != nil
		}
		if !found {
			t.Errorf("%s: no volume of the type %s at /var/lib/sotto", name, want)
		}
	}
}

// TestRender writes what the chart renders to the folder $SOTTO_RENDER, for kubectl.
func TestRender(t *testing.T) {
	dir := os.Getenv("SOTTO_RENDER")
	if dir == "" {
		t.Skip("SOTTO_RENDER is not set")
	}
	for name, values := range map[string]string{
		"sotto":           "",
		"sotto-forwarder": "node: {enabled: false}\nforwarder: {enabled: true, autoscaling: {enabled: true}, podMonitor: {enabled: true}, networkPolicy: {enabled: true}, secretName: keys}",
	} {
		all, err := helm(t, name, values)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, o := range all {
			out.WriteString("---\n" + text(t, o))
		}
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
