// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver/installer"
	storage "sigs.k8s.io/custom-metrics-apiserver/pkg/registry/custom_metrics"
)

// listKind is the kind of every answer.
const listKind = "MetricValueList"

// lister is the library's storage with lists that encode themselves.
type lister struct {
	*storage.REST

	json    runtime.Identifier
	buffers *sync.Pool
}

// List implements the installer's ListerWithOptions.
func (l lister) List(ctx context.Context, options *metainternalversion.ListOptions, more runtime.Object) (runtime.Object, error) {
	found, err := l.REST.List(ctx, options, more)
	if list, ok := found.(*custom_metrics.MetricValueList); ok && err == nil {
		return encoded{list, l.json, l.buffers}, nil
	}
	return found, err
}

// Install makes a server serve the metrics in every version of the API, and list them in
// discovery together with those of others; changed has to be called when those have changed.
// The library's own InstallCustomMetricsAPI does the same, but converts lists and encodes
// them by reflection.
func Install(server *genericapiserver.GenericAPIServer, p *Provider, others Others) (changed func(), err error) {
	group := genericapiserver.NewDefaultAPIGroupInfo(custom_metrics.GroupName, apiserver.Scheme, runtime.NewParameterCodec(apiserver.Scheme), apiserver.Codecs)
	lists := lister{storage.NewREST(p), jsonIdentifier(), &sync.Pool{}}
	var versions []metav1.GroupVersionForDiscovery
	for _, gv := range group.PrioritizedVersions {
		versions = append(versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
		api := &installer.MetricsAPIGroupVersion{
			DynamicStorage: lists,
			APIGroupVersion: &genericapi.APIGroupVersion{
				Root: genericapiserver.APIGroupPrefix, GroupVersion: gv, MetaGroupVersion: group.MetaGroupVersion,
				ParameterCodec: group.ParameterCodec, Serializer: group.NegotiatedSerializer, Creater: group.Scheme, //nolint:misspell // as the library has it
				Convertor: group.Scheme, UnsafeConvertor: runtime.UnsafeObjectConvertor(group.Scheme), Typer: group.Scheme,
				Namer: runtime.Namer(meta.NewAccessor()),
			},
			ResourceLister: listing{gv.Version, others},
			Handlers:       &installer.CMHandlers{},
		}
		if err := api.InstallREST(server.Handler.GoRestfulContainer); err != nil {
			return nil, fmt.Errorf("cannot serve %s: %w", gv, err)
		}
	}
	apiGroup := metav1.APIGroup{Name: custom_metrics.GroupName, Versions: versions, PreferredVersion: versions[0]}
	server.DiscoveryGroupManager.AddGroup(apiGroup)
	server.Handler.GoRestfulContainer.Add(discovery.NewAPIGroupHandler(server.Serializer, apiGroup).WebService())
	changed = func() { addDiscovery(server, versions, others) }
	changed()
	return changed, nil
}
