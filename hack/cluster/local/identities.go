// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	adminUser   = "admin"
	adminGroup  = "system:masters"
	nodesGroup  = "system:nodes"
	tokenLife   = 365 * 24 * time.Hour
	clientQPS   = 500
	clientBurst = 1000
)

// nodeUser is the user name of a node's kubelet.
func nodeUser(node string) string { return "system:node:" + node }

// RESTConfig creates a client certificate for a user in groups. Group system:masters may do everything.
func (c *Cluster) RESTConfig(user string, groups ...string) (*rest.Config, error) {
	s, err := c.state()
	if err != nil {
		return nil, err
	}
	return restConfig(s, c.layout(), user, groups)
}

// AdminConfig returns an identity that may do everything.
func (c *Cluster) AdminConfig() (*rest.Config, error) {
	return c.RESTConfig(adminUser, adminGroup)
}

// NodeConfig returns the identity of a node: it may change its own Node and the status of its own pods, and little else.
func (c *Cluster) NodeConfig(node string) (*rest.Config, error) {
	return c.RESTConfig(nodeUser(node), nodesGroup)
}

// KubeconfigFor writes a kubeconfig for a user in groups and returns its path.
func (c *Cluster) KubeconfigFor(user string, groups ...string) (string, error) {
	s, err := c.state()
	if err != nil {
		return "", err
	}
	name := fileName(user, groups)
	if user == adminUser && slices.Equal(groups, []string{adminGroup}) {
		name = adminUser
	}
	path := c.layout().kubeconfig(name)
	return path, writeKubeconfig(s, c.layout(), path, user, groups)
}

// AdminKubeconfig writes a kubeconfig that may do everything and returns its path.
func (c *Cluster) AdminKubeconfig() (string, error) {
	return c.KubeconfigFor(adminUser, adminGroup)
}

// ServiceAccountKubeconfig requests a token for an existing service account, valid for a year, and writes a kubeconfig with
// it.
func (c *Cluster) ServiceAccountKubeconfig(ctx context.Context, namespace, name string) (string, error) {
	config, err := c.AdminConfig()
	if err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", fmt.Errorf("cannot ask for a token of service account %s/%s: %w", namespace, name, err)
	}
	seconds := int64(tokenLife.Seconds())
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("cannot ask for a token of service account %s/%s: %w; create it first", namespace, name, err)
	}
	path := c.layout().kubeconfig(fileName("sa-"+namespace+"-"+name, []string{namespace, name}))
	return path, saveKubeconfig(path, config.Host, config.CAData, clientcmdapi.AuthInfo{Token: token.Status.Token}, namespace)
}

func restConfig(s state, l layout, user string, groups []string) (*rest.Config, error) {
	ca, err := loadAuthority(l.pki(""), "ca")
	if err != nil {
		return nil, err
	}
	kp, err := ca.sign(clientTemplate(user, groups))
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate for user %s: %w", user, err)
	}
	return &rest.Config{
		Host:            s.apiServerURL(),
		TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem, CertData: kp.cert, KeyData: kp.key},
		QPS:             clientQPS, Burst: clientBurst,
	}, nil
}

func writeKubeconfig(s state, l layout, path, user string, groups []string) error {
	config, err := restConfig(s, l, user, groups)
	if err != nil {
		return err
	}
	auth := clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	return saveKubeconfig(path, config.Host, config.CAData, auth, "")
}

func saveKubeconfig(path, server string, ca []byte, auth clientcmdapi.AuthInfo, namespace string) error {
	const name = "callguard"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[name] = &auth
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: namespace}
	config.CurrentContext = name
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("cannot write the kubeconfig %s: %w", path, err)
	}
	return writeFile(path, raw)
}

// fileName is readable, and unique for each user and groups, whatever characters they contain.
func fileName(user string, groups []string) string {
	sum := sha256.Sum256([]byte(user + "\x00" + strings.Join(groups, "\x00")))
	readable := regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(user, "-")
	return readable + "-" + hex.EncodeToString(sum[:4])
}
