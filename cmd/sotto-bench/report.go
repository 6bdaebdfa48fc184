// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"sotto/internal/benchreport"
)

// reportCommand writes BENCHMARKS.md and the plots, and prints ratios and verdicts.
func reportCommand(_ context.Context, args []string) error {
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	raw := f.String("raw", "raw.tsv", "`file` with the raw results")
	out := f.String("out", "docs", "`directory` for the report")
	if err := f.Parse(args); err != nil {
		return err
	}
	in, err := os.Open(*raw)
	if err != nil {
		return err
	}
	defer in.Close()
	res, err := benchreport.Read(in)
	if err != nil {
		return err
	}
	fmt.Print(res.Text())
	if plot := res.PathsSVG(); plot != "" {
		if err := os.WriteFile(filepath.Join(*out, "benchmarks-hits.svg"), []byte(plot), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(*out, "BENCHMARKS.md"), []byte(res.Markdown()), 0o644),
		os.WriteFile(filepath.Join(*out, "benchmarks.svg"), []byte(res.SVG()), 0o644),
	)
}
