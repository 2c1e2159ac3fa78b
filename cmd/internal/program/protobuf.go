// SPDX-License-Identifier: Apache-2.0

package program

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// Protobuf is the same way to the Kubernetes API for clients of Kubernetes' own kinds: what they read and write takes less
// time of both sides than JSON, which is client-go's default.
func Protobuf(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return config
}
