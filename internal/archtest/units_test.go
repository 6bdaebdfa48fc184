// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// exposures are the highest accepted results of `systemd-analyze security` of systemd 252, from
// 0 to 10. docs/SECURITY.md explains what they consist of.
var exposures = map[string]float64{"sotto.service": 4.6, "sotto-serve.service": 1.1}

// installedUnits copies the units to a new directory, with a program that exists.
func installedUnits(t *testing.T) (files []string) {
	t.Helper()
	from, err := filepath.Glob(filepath.Join(root(t), "deploy/systemd/*"))
	if err != nil || len(from) < 3 {
		t.Fatalf("units: %v, %v", from, err)
	}
	dir := t.TempDir()
	for _, path := range from {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/sotto", "/bin/true")), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

func systemdAnalyze(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	// Where systemd does not run, systemd-analyze creates the directory.
	if _, err := os.Stat("/run/systemd"); err != nil && os.Geteuid() != 0 {
		t.Skip("needs root, or /run/systemd")
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %s: %v\n%s", args, err, out)
	}
	return string(out)
}

// setting returns the last value of a setting in the text of a unit.
func setting(text, name string) string {
	value := ""
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+"="); ok {
			value = strings.TrimSpace(v)
		}
	}
	return value
}

// TestControlGroupOfUnits checks that systemd leaves a control socket accessible to control-group: it
// sets the mode of the runtime directory with each command of the unit, and gives all of it back to the
// unit's user unless the directory belongs to that user.
func TestControlGroupOfUnits(t *testing.T) {
	for name := range exposures {
		text, err := os.ReadFile(filepath.Join(root(t), "deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := setting(string(text), "RuntimeDirectoryMode"); got != "0711" {
			t.Errorf("%s: RuntimeDirectoryMode=%s, want 0711 as in package control", name, got)
		}
	}
}

// TestBuffersOfUnits checks that systemd gives the sockets of sotto-serve the sizes of package forwarder,
// which may not have the privilege for them.
func TestBuffersOfUnits(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "deploy/systemd/sotto-serve.socket"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ReceiveBuffer", "SendBuffer"} {
		if got := setting(string(text), name); got != "4M" {
			t.Errorf("%s=%s, want 4M as in forwarder/sockets.go", name, got)
		}
	}
}

// TestUnitDirectories checks that each service can write lists and logs, all of which it finds below its
// own name.
func TestUnitDirectories(t *testing.T) {
	running := operating(t, "Running as a service") + operating(t, "Query log and dnstap")
	for name := range exposures {
		text, err := os.ReadFile(filepath.Join(root(t), "deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		want := strings.TrimSuffix(name, ".service")
		for _, directory := range []string{"RuntimeDirectory", "StateDirectory", "LogsDirectory"} {
			if got := setting(string(text), directory); got != want {
				t.Errorf("%s: %s=%s, want %s", name, directory, got, want)
			}
		}
		if !strings.Contains(running, "`/var/log/"+want+"`") {
			t.Errorf("docs/OPERATING.md does not name /var/log/%s", want)
		}
	}
}

// commands returns the lines of the code blocks in a section of docs/OPERATING.md.
func commands(t *testing.T, section string) (lines []string) {
	t.Helper()
	inside := false
	for line := range strings.Lines(operating(t, section)) {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if inside {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		t.Fatalf("docs/OPERATING.md has no commands in %q", section)
	}
	return lines
}

// TestInstructions checks that the steps of docs/OPERATING.md work after each kind of installation:
// packages and install.sh put the program into different directories, and create /etc/sotto and the group.
func TestInstructions(t *testing.T) {
	created := false
	for _, line := range commands(t, "Running as a service") {
		created = created || strings.HasPrefix(line, "sudo install -d /etc/sotto")
		if strings.Contains(line, "tee /etc/sotto/") && !created {
			t.Errorf("nothing has created the directory before: %s", line)
		}
	}
	for _, line := range commands(t, "Query log and dnstap") {
		if strings.Contains(line, "bin/sotto") {
			t.Errorf("the program is not always there: %s", line)
		}
	}
	for _, line := range commands(t, "Operators without root") {
		if strings.Contains(line, "groupadd") && !strings.Contains(line, "groupadd -f") {
			t.Errorf("it fails if the group exists: %s", line)
		}
	}
	if strings.Contains(operating(t, "Running as a service"), "`[Unit] OnFailure=") {
		t.Error("it recommends OnFailure=, which depends on the version of systemd for a unit with Restart=")
	}
	text, err := os.ReadFile(filepath.Join(root(t), "deploy/systemd/sotto.service"))
	if err != nil {
		t.Fatal(err)
	}
	removal := strings.Join(commands(t, "Removal"), " ") + " "
	// In a command of its own: systemctl does nothing if one of the units does not exist.
	if !strings.Contains(removal, "disable --now sotto-serve.socket sotto-serve.service ") {
		t.Error("the removal leaves the forwarder running")
	}
	for _, file := range installedUnits(t) {
		if name := filepath.Base(file); !strings.Contains(removal, "/etc/systemd/system/"+name+" ") {
			t.Errorf("the removal leaves %s", name)
		}
	}
	for directory, parent := range map[string]string{"RuntimeDirectory": "/run/", "StateDirectory": "/var/lib/", "LogsDirectory": "/var/log/"} {
		if path := parent + setting(string(text), directory); !strings.Contains(removal, " "+path+" ") {
			t.Errorf("the removal leaves %s", path)
		}
	}
}

// TestForwarderWithoutIPv6 checks that the sockets of the forwarder can be bound on a host that has
// disabled IPv6. If one cannot, systemd binds none.
func TestForwarderWithoutIPv6(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "deploy/systemd/sotto-serve.socket"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "=[::1]:") && setting(string(text), "FreeBind") != "yes" {
		t.Error("sotto-serve.socket needs FreeBind=yes for ::1")
	}
}

// TestUnits checks that systemd accepts all settings of the units.
func TestUnits(t *testing.T) {
	if out := systemdAnalyze(t, append([]string{"verify", "--man=no"}, installedUnits(t)...)...); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
}

// TestUnitExposure checks that no hardening setting of a service was lost.
func TestUnitExposure(t *testing.T) {
	checked := 0
	for _, file := range installedUnits(t) {
		highest, ok := exposures[filepath.Base(file)]
		if !ok {
			continue
		}
		checked++
		out := systemdAnalyze(t, "security", "--offline=true", "--no-pager", file)
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no exposure:\n%s", out)
		}
		if got, err := strconv.ParseFloat(m[1], 64); err != nil || got > highest {
			t.Errorf("%s: exposure %s, want at most %v\n%s", filepath.Base(file), m[1], highest, out)
		}
	}
	if checked != len(exposures) {
		t.Errorf("checked %d of %d services", checked, len(exposures))
	}
}
