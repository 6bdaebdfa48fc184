// SPDX-License-Identifier: Apache-2.0

// Command image writes a container image of Sotto without a container engine: a tar file that
// `docker load` and `podman load` read, or with several binaries an OCI layout with an index of
// platforms. The same inputs make the same bytes. It has the files and settings of the Dockerfile.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// settings are the command line.
type settings struct {
	version, revision  string
	created            time.Time
	binary, arch, sbom string // of a docker archive; each is a comma-separated list for a layout
	ca, config, out    string
	oci                bool // write an OCI layout, a folder, instead of a docker archive
}

func main() {
	var s settings
	var epoch int64
	flag.StringVar(&s.version, "version", "", "version, for labels and the tag")
	flag.StringVar(&s.revision, "revision", "", "commit, for a label")
	flag.Int64Var(&epoch, "epoch", 0, "time of all files, in seconds since 1970")
	flag.StringVar(&s.binary, "binary", "", "paths of the programs, separated by commas")
	flag.StringVar(&s.arch, "arch", "", "their architectures, in the same order")
	flag.StringVar(&s.sbom, "sbom", "", "paths of their SBOMs, in the same order")
	flag.StringVar(&s.ca, "ca", "/etc/ssl/certs/ca-certificates.crt", "path of the CA certificates")
	flag.StringVar(&s.config, "config", "", "path of the configuration in the image")
	flag.StringVar(&s.out, "out", "", "path of the result")
	flag.BoolVar(&s.oci, "oci", false, "write an OCI layout, a folder, with all architectures")
	flag.Parse()
	s.created = time.Unix(epoch, 0).UTC()
	if err := s.write(); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

func (s *settings) write() error {
	binaries, arches, sboms := strings.Split(s.binary, ","), strings.Split(s.arch, ","), strings.Split(s.sbom, ",")
	if len(binaries) != len(arches) || len(sboms) != len(arches) || (!s.oci && len(arches) != 1) {
		return errors.New("--binary, --arch and --sbom need the same number of values, without --oci one")
	}
	index := v1.ImageIndex(mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	for i, arch := range arches {
		img, err := s.image(binaries[i], arch, sboms[i])
		if err != nil {
			return fmt.Errorf("image for %s: %w", arch, err)
		}
		if !s.oci {
			tag, err := name.NewTag("sotto:" + s.version)
			if err != nil {
				return err
			}
			return tarball.WriteToFile(s.out, tag, img)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "linux", Architecture: arch},
			Annotations: map[string]string{"org.opencontainers.image.ref.name": s.version},
		}})
	}
	_, err := layout.Write(s.out, index)
	return err
}

// image returns the image for one architecture.
func (s *settings) image(binary, arch, sbom string) (v1.Image, error) {
	data, err := s.files(binary, sbom)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: s.created}, CreatedBy: "scripts/release.sh",
	}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", arch, v1.Time{Time: s.created}
	file.Config = s.runtime()
	return mutate.ConfigFile(img, file)
}

// runtime returns what the last stage of the Dockerfile sets.
func (s *settings) runtime() v1.Config {
	return v1.Config{
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint:   []string{"/sotto"},
		Cmd:          []string{"serve", "--listen", ":53"},
		ExposedPorts: map[string]struct{}{"53/tcp": {}, "53/udp": {}},
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", "/sotto", "status", "--ready"},
			Interval: 10 * time.Second, Timeout: 3 * time.Second, StartPeriod: 30 * time.Second,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "sotto",
			"org.opencontainers.image.description": "DNS over TLS for every program on a host: sealed with eBPF, or as a forwarder",
			"org.opencontainers.image.licenses":    "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
			"org.opencontainers.image.version":     s.version,
			"org.opencontainers.image.revision":    s.revision,
			"org.opencontainers.image.created":     s.created.Format(time.RFC3339),
			"org.cyclonedx.sbom":                   "/usr/share/doc/sotto/sbom.cdx.json",
		},
	}
}

// files returns the image's only layer.
func (s *settings) files(binary, sbom string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{".": true}
	for _, f := range []struct {
		path, source string
		mode         int64
	}{
		{"etc/sotto/sotto.toml", s.config, 0o644},
		{"etc/ssl/certs/ca-certificates.crt", s.ca, 0o644},
		{"sotto", binary, 0o755},
		{"usr/share/doc/sotto/sbom.cdx.json", sbom, 0o644},
	} {
		data, err := os.ReadFile(f.source)
		if err != nil {
			return nil, err
		}
		if err := s.directories(w, made, filepath.Dir(f.path)); err != nil {
			return nil, err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: int64(len(data)), ModTime: s.created}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// directories adds dir and its parents, once each.
func (s *settings) directories(w *tar.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := s.directories(w, made, filepath.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: s.created})
}
