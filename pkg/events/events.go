// SPDX-License-Identifier: Apache-2.0

// Package events keeps Events readable, whatever text tenants put into them, and few,
// however many pods leave. It does not decide what is reported.
package events

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/pkg/call"
)

// Plain returns a recorder that writes texts in one line, of limited length and safe for a
// terminal, because they include text from pods, owners and others' policies.
func Plain(recorder record.EventRecorder) record.EventRecorder { return plain{recorder} }

type plain struct{ record.EventRecorder }

// Event implements record.EventRecorder.
func (p plain) Event(object runtime.Object, kind, reason, text string) {
	p.EventRecorder.Event(object, kind, reason, call.Plain(text, call.MaxText))
}

// Eventf implements record.EventRecorder.
func (p plain) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	p.Event(object, kind, reason, fmt.Sprintf(format, args...))
}
