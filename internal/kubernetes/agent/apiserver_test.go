// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/rest"

	"sotto/internal/kubernetes/podfile"
)

// apiServer is a real API server with etcd, on loopback.
type apiServer struct {
	t      *testing.T
	dir    string
	binary string
	etcd   string // its URL
	port   string
	stop   func()
}

const (
	admin  = "admin-token"
	reader = "reader-token" // of the user "sotto"
)

// startAPIServer starts a control plane in a directory of its own. The test is skipped if there is
// none on this machine.
func startAPIServer(t *testing.T) *apiServer {
	binary := os.Getenv("SOTTO_KUBE_APISERVER")
	if binary == "" {
		t.Skip("needs the program kube-apiserver, which scripts/kubernetes-test.sh builds: set SOTTO_KUBE_APISERVER")
	}
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("needs the program etcd")
	}
	s := &apiServer{t: t, dir: t.TempDir(), binary: binary, port: freePort(t)}
	s.etcd = "http://127.0.0.1:" + freePort(t)
	peer := "http://127.0.0.1:" + freePort(t)
	t.Cleanup(s.run("etcd", etcd, "--data-dir", filepath.Join(s.dir, "etcd"), "--listen-client-urls", s.etcd, "--advertise-client-urls", s.etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer))
	s.write("tokens.csv", admin+",admin,admin,system:masters\n"+reader+",sotto,sotto\n")
	if out, err := exec.Command("openssl", "genrsa", "-out", filepath.Join(s.dir, "sa.key"), "2048").CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func (s *apiServer) write(name, text string) {
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// run starts a program and returns a function that stops it.
func (s *apiServer) run(name, binary string, args ...string) (stop func()) {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: binary, Args: append([]string{name}, args...), Stdout: log, Stderr: log}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	}
}

// start starts the API server and waits until it is ready.
func (s *apiServer) start() {
	key := filepath.Join(s.dir, "sa.key")
	s.stop = s.run("kube-apiserver", s.binary, "--etcd-servers="+s.etcd, "--service-cluster-ip-range=10.96.0.0/16", "--cert-dir="+s.dir,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+s.port, "--authorization-mode=RBAC",
		"--token-auth-file="+filepath.Join(s.dir, "tokens.csv"), "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key, "--disable-admission-plugins=ServiceAccount")
	s.wait("the API server", func() error {
		return s.request(http.MethodGet, "/readyz", nil)
	})
}

// wait waits until is returns nil.
func (s *apiServer) wait(what string, is func() error) {
	s.t.Helper()
	var err error
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = is(); err == nil {
			return
		}
	}
	s.t.Fatalf("timed out waiting for %s: %v", what, err)
}

// request sends a request of the administrator with a new object, or a merge patch.
func (s *apiServer) request(method, path string, content any) error {
	text, err := json.Marshal(content)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, "https://127.0.0.1:"+s.port+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	return nil
}

func (s *apiServer) do(method, path string, content any) {
	s.t.Helper()
	if err := s.request(method, path, content); err != nil {
		s.t.Fatal(err)
	}
}

type body map[string]any

func (s *apiServer) namespace(name string, labels body) {
	s.do(http.MethodPost, "/api/v1/namespaces", body{"metadata": body{"name": name, "labels": labels}})
}

// pod creates a pod that a scheduler would have given to a node.
func (s *apiServer) pod(namespace, name, node string, labels body) {
	s.do(http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods", body{
		"metadata": body{"name": name, "labels": labels},
		"spec":     body{"nodeName": node, "containers": []body{{"name": "main", "image": "x"}}},
	})
}

// applyRoles creates the roles of the manifests, and gives them to the user "sotto".
func (s *apiServer) applyRoles() {
	s.t.Helper()
	text, err := os.ReadFile("../../../deploy/kubernetes/policy/rbac.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	roles := 0
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o map[string]any
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			s.t.Fatal(err)
		}
		if o["kind"] == "ClusterRole" {
			roles++
			s.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterroles", o)
			name := o["metadata"].(map[string]any)["name"]
			s.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body{
				"metadata": body{"name": name},
				"roleRef":  body{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
				"subjects": []body{{"kind": "User", "name": "sotto", "apiGroup": "rbac.authorization.k8s.io"}},
			})
		}
	}
	if roles != 1 {
		s.t.Fatalf("%d roles in rbac.yaml", roles)
	}
}

// TestRun: with the rights of the manifests, the file has the pods of the node and follows every
// change, also after the API server was away.
func TestRun(t *testing.T) {
	s := startAPIServer(t)
	s.applyRoles()
	s.namespace("one", body{"team": "a"})
	s.namespace("two", nil)
	s.pod("one", "web", "n1", body{"app": "web"})
	s.pod("two", "elsewhere", "n2", nil)

	file := filepath.Join(t.TempDir(), "pods.json")
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	var log bytes.Buffer
	go func() {
		ran <- Run(ctx, Config{
			API:  &rest.Config{Host: "https://127.0.0.1:" + s.port, BearerToken: reader, TLSClientConfig: rest.TLSClientConfig{Insecure: true}},
			Node: "n1", File: file, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
	}()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	want := func(text string) {
		t.Helper()
		s.wait(text, func() error {
			f, err := podfile.Read(file)
			if got := brief(f); err == nil && got != text {
				err = errors.New(got)
			}
			return err
		})
	}
	want("one/web app=web; one team=a")
	s.do(http.MethodPatch, "/api/v1/namespaces/one/pods/web", body{"metadata": body{"labels": body{"app": "db"}, "annotations": body{podfile.SealAnnotation: "off"}}})
	want("one/web app=db off; one team=a")
	s.do(http.MethodPatch, "/api/v1/namespaces/one", body{"metadata": body{"labels": body{"team": "b"}, "annotations": body{podfile.SealAnnotation: "off"}}})
	want("one/web app=db off; one team=b off")
	s.pod("two", "new", "n1", nil)
	want("one/web app=db off; two/new; one team=b off; two")

	s.stop()
	s.start()
	s.do(http.MethodDelete, "/api/v1/namespaces/one/pods/web", body{"gracePeriodSeconds": 0})
	want("two/new; two")
}

// brief describes the content of a file.
func brief(f podfile.File) string {
	var parts []string
	describe := func(name string, labels map[string]string, seal string) {
		for _, key := range []string{"app", "team"} {
			if v, ok := labels[key]; ok {
				name += " " + key + "=" + v
			}
		}
		parts = append(parts, strings.TrimSpace(name+" "+seal))
	}
	for _, name := range []string{"one", "two"} { // UIDs are random
		for _, p := range f.Pods {
			if p.Namespace == name {
				describe(p.Namespace+"/"+p.Name, p.Labels, p.Seal)
			}
		}
	}
	for _, name := range []string{"one", "two"} {
		if n, ok := f.Namespaces[name]; ok {
			describe(name, n.Labels, n.Seal)
		}
	}
	return strings.Join(parts, "; ")
}
