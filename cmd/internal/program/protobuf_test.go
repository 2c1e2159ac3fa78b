// SPDX-License-Identifier: Apache-2.0

package program

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestProtobufIsAskedForAndJSONIsRead: the client also understands a server that has only
// JSON.
func TestProtobufIsAskedForAndJSONIsRead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if first, _, _ := strings.Cut(r.Header.Get("Accept"), ","); first != "application/vnd.kubernetes.protobuf" {
			t.Errorf("it asks for %q first", first)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-1"}}`))
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL}
	client, err := kubernetes.NewForConfig(Protobuf(config))
	if err != nil {
		t.Fatal(err)
	}
	pod, err := client.CoreV1().Pods("voice").Get(t.Context(), "web-1", metav1.GetOptions{})
	if err != nil || pod.Name != "web-1" || config.ContentType != "" {
		t.Errorf("it reads %v, %v; the caller's config asks for %q", pod, err, config.ContentType)
	}
}
