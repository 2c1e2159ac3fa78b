// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// Media types that a client may ask for.
const (
	asJSON         = "application/json"
	asProtobuf     = "application/vnd.kubernetes.protobuf"
	metadataAsWell = ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// The requests that have limits of their own.
const (
	nativeJSON     = "pods"
	nativeMetadata = "pods, metadata only"
	metricsJSON    = "active_calls of every pod"
)

// request is a request to kube-apiserver.
type request struct {
	name, path, accept string
	gzip               bool
}

func metricsOfPods(name string) string {
	return "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + namespace + "/pods/" + name + "/active_calls"
}

// requests lists what is compared. The others are compared with the first.
func requests(pod string) []request {
	const pods = "/api/v1/namespaces/" + namespace + "/pods"
	const deployment = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + namespace + "/deployments.apps/agent/active_calls"
	return []request{
		{name: nativeJSON, path: pods, accept: asJSON},
		{name: nativeJSON, path: pods, accept: asJSON, gzip: true},
		{name: nativeJSON, path: pods, accept: asProtobuf},
		{name: nativeMetadata, path: pods, accept: asProtobuf + metadataAsWell},
		{name: metricsJSON, path: metricsOfPods("*"), accept: asJSON},
		{name: metricsJSON, path: metricsOfPods("*"), accept: asJSON, gzip: true},
		{name: metricsJSON, path: metricsOfPods("*"), accept: asProtobuf},
		{name: "active_calls of one pod", path: metricsOfPods(pod), accept: asJSON},
		{name: "active_calls of the Deployment", path: deployment, accept: asJSON},
	}
}

// encoding returns the answer's encoding in a word.
func (r request) encoding() string {
	switch {
	case r.gzip:
		return "JSON, gzip"
	case r.accept == asJSON:
		return "JSON"
	default:
		return "protobuf"
	}
}

// client sends requests and does not parse the answers.
type client struct {
	http *http.Client
	host string
}

func newClient(config *rest.Config) (*client, error) {
	config = rest.CopyConfig(config)
	config.DisableCompression = true // requests that want gzip set the header
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client: %w", err)
	}
	return &client{http: h, host: config.Host}, nil
}

func (c *client) do(ctx context.Context, r request, into io.Writer) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.host+r.path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", r.accept)
	if r.gzip {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 1000)) // the error
		return 0, fmt.Errorf("%s answers %s: %s", r.path, res.Status, why)
	}
	n, err := io.Copy(into, res.Body)
	if err != nil {
		return n, fmt.Errorf("%s breaks off: %w", r.path, err)
	}
	return n, nil
}

// get returns the whole answer.
func (c *client) get(ctx context.Context, path, accept string) ([]byte, error) {
	var body bytes.Buffer
	_, err := c.do(ctx, request{path: path, accept: accept}, &body)
	return body.Bytes(), err
}

// result is what one request cost.
type result struct {
	request

	bytes int64
	took  []time.Duration
}

// compare sends the requests in turn, each round beginning with the next one, after one
// round that does not count.
func (b *bench) compare(ctx context.Context, requests []request) ([]result, error) {
	results := make([]result, len(requests))
	for i, r := range requests {
		results[i].request = r
	}
	for round := range b.rounds + 1 {
		for i := range results {
			r := &results[(i+round)%len(results)]
			start := time.Now()
			n, err := b.http.do(ctx, r.request, io.Discard)
			if err != nil {
				return nil, err
			}
			if r.bytes = n; round > 0 {
				r.took = append(r.took, time.Since(start))
			}
		}
		if round%10 == 0 {
			b.printf(b.progress, "%d of %d rounds are measured\n", round, b.rounds)
		}
	}
	return results, nil
}
