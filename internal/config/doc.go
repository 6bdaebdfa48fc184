// SPDX-License-Identifier: Apache-2.0

// Package config turns the text of a configuration file into a validated plan.
//
// [Load] and [Parse] read TOML into [Settings]: texts and numbers, and the position of
// each in the file. Flags of the command line override them ([Settings.Override]).
// [Settings.Plan] validates everything and returns a [Plan], which holds the configuration
// types of packages forwarder and intercept. It starts nothing and changes nothing.
//
// An error in the file starts with file:line:column. An error in a flag is a [UsageError].
// docs/sotto.toml is the reference of all settings, and a test compares it with this package.
package config
