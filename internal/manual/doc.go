// SPDX-License-Identifier: Apache-2.0

// Package manual writes manual pages (man(7)) from the commands of a program.
//
// Help texts are plain: paragraphs, and lines that are indented by two spaces, which are printed
// as they are. The first such block is the examples, and one after "Exit status:" at the end
// replaces the usual exit status. A generator that reads Markdown would join
// these lines. The pages are not part of the repository, since they repeat the help texts of the
// version that they belong to: `make man` writes them.
package manual
