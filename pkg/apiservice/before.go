// SPDX-License-Identifier: Apache-2.0

package apiservice

import (
	"encoding/json"
	"fmt"
	"strings"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// BeforeAnnotation records, on an APIService that callguard has taken, how that was before,
// so that it can be given back. On the object itself it outlives callguard, and is set and
// removed in the same write as the change.
const BeforeAnnotation = "callguard.dev/before"

// Before is how an APIService was before callguard took it.
type Before struct {
	// Absent reports that it did not exist.
	Absent bool `json:"absent,omitempty"`
	// Service is the Service that it named, as namespace/name.
	Service               string `json:"service,omitempty"`
	Port                  int32  `json:"port,omitempty"`
	CABundle              []byte `json:"caBundle,omitempty"`
	InsecureSkipTLSVerify bool   `json:"insecureSkipTLSVerify,omitempty"`
}

// WasBefore returns how an APIService was before it was taken; nil if it was not taken.
func WasBefore(s *apiregistrationv1.APIService) (*Before, error) {
	text, taken := s.Annotations[BeforeAnnotation]
	if !taken {
		return nil, nil
	}
	var b Before
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		return nil, fmt.Errorf("annotation %s of APIService %s cannot be read: %w", BeforeAnnotation, s.Name, err)
	}
	return &b, nil
}

// The states of an APIService.
const (
	// Missing means that it does not exist.
	Missing Standing = iota
	// Ours means that it names callguard's Service.
	Ours
	// Theirs means that it names the other adapter's Service, and callguard has not taken it.
	Theirs
	// PutBack means that callguard had taken it, and it names the other adapter's Service
	// again.
	PutBack
	// Foreign means that it names neither Service.
	Foreign
)

// Standing is whether an APIService belongs to callguard, to the other adapter, or to
// neither.
type Standing int

// Stands returns the state of an APIService, which is nil if it does not exist. ours and
// theirs are callguard's Service and the other adapter's, both as namespace/name; had reports
// that it was callguard's before.
func Stands(s *apiregistrationv1.APIService, ours, theirs string, had bool) Standing {
	if s == nil {
		return Missing
	}
	_, marked := s.Annotations[BeforeAnnotation]
	switch Owner(s) {
	case ours:
		return Ours
	case theirs:
		if marked || had {
			return PutBack
		}
		return Theirs
	default:
		return Foreign
	}
}

// Take points an APIService to callguard's Service, whose certificate caBundle verifies, and
// records in it how it was before. Its priorities and everything else stay.
func Take(s *apiregistrationv1.APIService, ours apiregistrationv1.ServiceReference, caBundle []byte) error {
	before := Before{CABundle: s.Spec.CABundle, InsecureSkipTLSVerify: s.Spec.InsecureSkipTLSVerify, Service: Owner(s)}
	if s.Spec.Service != nil && s.Spec.Service.Port != nil {
		before.Port = *s.Spec.Service.Port
	}
	return lead(s, ours, caBundle, before)
}

// Make returns a new APIService of a name that did not exist, pointing to callguard's Service.
// The higher version is the preferred one.
func Make(name, version, group string, ours apiregistrationv1.ServiceReference, caBundle []byte) (*apiregistrationv1.APIService, error) {
	s := &apiregistrationv1.APIService{}
	s.Name = name
	s.Labels = map[string]string{"app.kubernetes.io/part-of": "callguard"}
	s.Spec.Group, s.Spec.Version = group, version
	s.Spec.GroupPriorityMinimum, s.Spec.VersionPriority = 100, 100
	if name != Names()[0] {
		s.Spec.VersionPriority = 200
	}
	return s, lead(s, ours, caBundle, Before{Absent: true})
}

func lead(s *apiregistrationv1.APIService, ours apiregistrationv1.ServiceReference, caBundle []byte, before Before) error {
	text, err := json.Marshal(before)
	if err != nil {
		return fmt.Errorf("cannot note how APIService %s was: %w", s.Name, err)
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[BeforeAnnotation] = string(text)
	s.Spec.Service, s.Spec.CABundle, s.Spec.InsecureSkipTLSVerify = &ours, caBundle, false
	return nil
}

// GiveBack restores an APIService as it was before it was taken, if it still names
// callguard's Service.
func GiveBack(s *apiregistrationv1.APIService, before *Before, ours string) {
	delete(s.Annotations, BeforeAnnotation)
	if Owner(s) != ours {
		return
	}
	namespace, name, _ := strings.Cut(before.Service, "/")
	s.Spec.Service = &apiregistrationv1.ServiceReference{Namespace: namespace, Name: name}
	if before.Port != 0 {
		s.Spec.Service.Port = &before.Port
	}
	s.Spec.CABundle, s.Spec.InsecureSkipTLSVerify = before.CABundle, before.InsecureSkipTLSVerify
}
