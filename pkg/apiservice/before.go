// SPDX-License-Identifier: Apache-2.0

package apiservice

import (
	"encoding/json"
	"fmt"
	"strings"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// BeforeAnnotation says of an APIService that callguard has taken how it was before, so that
// it can be given back. It is on the object itself, where it outlives callguard and comes and
// goes in the same write.
const BeforeAnnotation = "callguard.dev/before"

// Before is how an APIService was before callguard took it.
type Before struct {
	// Absent says that there was none.
	Absent bool `json:"absent,omitempty"`
	// Service is the one it named, as namespace/name.
	Service               string `json:"service,omitempty"`
	Port                  int32  `json:"port,omitempty"`
	CABundle              []byte `json:"caBundle,omitempty"`
	InsecureSkipTLSVerify bool   `json:"insecureSkipTLSVerify,omitempty"`
}

// WasBefore reads how an APIService was before it was taken; nil where it was not taken.
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

// How an APIService stands to callguard and to the adapter beside it.
const (
	// Missing means that there is none.
	Missing Standing = iota
	// Ours means that it names callguard's Service.
	Ours
	// Theirs means that it names the other adapter's, which callguard has not taken it from.
	Theirs
	// PutBack means that callguard had taken it, and that it names the other adapter's again.
	PutBack
	// Foreign means that it names neither.
	Foreign
)

// Standing is how an APIService stands to callguard and to the adapter beside it.
type Standing int

// Stands says how an APIService, nil where there is none, stands to our Service and to that of
// the other adapter, both as namespace/name. had says that it was seen to be ours before.
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

// Take leads an APIService to our Service, whose certificate caBundle verifies, and notes in it
// how it was. Its priorities and all else stay.
func Take(s *apiregistrationv1.APIService, ours apiregistrationv1.ServiceReference, caBundle []byte) error {
	before := Before{CABundle: s.Spec.CABundle, InsecureSkipTLSVerify: s.Spec.InsecureSkipTLSVerify, Service: Owner(s)}
	if s.Spec.Service != nil && s.Spec.Service.Port != nil {
		before.Port = *s.Spec.Service.Port
	}
	return lead(s, ours, caBundle, before)
}

// Make returns the APIService of a name that there was none of, led to our Service. The higher
// version is the preferred one.
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

// GiveBack puts an APIService as it was before it was taken, if it still names our Service.
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
