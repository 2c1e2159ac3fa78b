// SPDX-License-Identifier: Apache-2.0

// Command coredns answers DNS in a local cluster: CoreDNS itself with only the plugins
// that this needs, because the clouds' SDKs take minutes to build.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() {
	dnsserver.Directives = []string{"bind", "health", "errors", "kubernetes"}
	coremain.Run()
}
