// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/callguard/callguard/test/lab"
)

const (
	// every is the scrape interval, and rateInterval the range of rates.
	every        = time.Second
	rateInterval = "20s"
	readyWithin  = 30 * time.Second
	askWithin    = 10 * time.Second
)

// Scrape is a program whose metrics Prometheus scrapes.
type Scrape struct {
	Name    string // of the pod that it stands for
	Address string // host:port
	// TLS configures the connection; nil means plain HTTP.
	TLS *TLS
}

// TLS has the PEM blocks of a connection, and the name in the server's certificate.
type TLS struct {
	CA, Cert, Key []byte
	ServerName    string
}

// Prometheus is one that runs on loopback, until it is stopped.
type Prometheus struct {
	url     string
	dir     string
	process *lab.Process
	scrapes []Scrape
}

// Start starts the Prometheus of the PATH, with its data in a new folder. It scrapes nothing yet.
func Start(ctx context.Context, port int) (*Prometheus, error) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		return nil, errors.New("no prometheus on the PATH; install it, on Debian with: apt-get install prometheus")
	}
	dir, err := os.MkdirTemp("", "callguard-prometheus-")
	if err != nil {
		return nil, err
	}
	p := &Prometheus{url: fmt.Sprintf("http://127.0.0.1:%d", port), dir: dir}
	if err := p.configure(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p.process, err = lab.StartProcess("prometheus", program, filepath.Join(dir, "log"), "--config.file="+p.config(),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port), "--web.enable-lifecycle")
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	err = lab.Eventually(ctx, readyWithin, "prometheus is ready", func() (bool, error) {
		err := p.do(ctx, http.MethodGet, "/-/ready", nil)
		return err == nil, errors.Join(err, p.process.Alive())
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// Stop ends it and removes its data.
func (p *Prometheus) Stop() error {
	return errors.Join(p.process.Kill(), os.RemoveAll(p.dir))
}

// Add makes it scrape another program.
func (p *Prometheus) Add(ctx context.Context, s Scrape) error {
	p.scrapes = append(p.scrapes, s)
	if err := p.configure(); err != nil {
		return err
	}
	return p.do(ctx, http.MethodPost, "/-/reload", nil)
}

func (p *Prometheus) config() string { return filepath.Join(p.dir, "prometheus.yaml") }

func (p *Prometheus) configure() error {
	jobs := []map[string]any{}
	for _, s := range p.scrapes {
		job := map[string]any{
			"job_name": s.Name, "honor_labels": true, // the label pod of a metric is not the pod that serves it
			"static_configs": []map[string]any{{"targets": []string{s.Address}, "labels": map[string]string{"pod": s.Name}}},
		}
		if s.TLS != nil {
			settings := map[string]string{"server_name": s.TLS.ServerName}
			for name, pem := range map[string][]byte{"ca_file": s.TLS.CA, "cert_file": s.TLS.Cert, "key_file": s.TLS.Key} {
				settings[name] = filepath.Join(p.dir, s.Name+"."+name)
				if err := os.WriteFile(settings[name], pem, 0o600); err != nil {
					return err
				}
			}
			job["scheme"], job["tls_config"] = "https", settings
		}
		jobs = append(jobs, job)
	}
	text, err := yaml.Marshal(map[string]any{"global": map[string]string{"scrape_interval": every.String()}, "scrape_configs": jobs})
	if err != nil {
		return err
	}
	return os.WriteFile(p.config(), text, 0o600)
}

// series is one series of an answer.
type series struct {
	Labels map[string]string `json:"metric"`
	Points []point           `json:"values"`
}

// point is a value at a time, in seconds.
type point struct{ at, value float64 }

// UnmarshalJSON reads a pair of a number and a string.
func (v *point) UnmarshalJSON(raw []byte) error {
	var pair [2]any
	if err := json.Unmarshal(raw, &pair); err != nil {
		return err
	}
	at, isNumber := pair[0].(float64)
	text, isText := pair[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if !isNumber || !isText || err != nil {
		return fmt.Errorf("%s is no point of a series", raw)
	}
	v.at, v.value = at, value
	return nil
}

// ask returns the series of an expression between two times.
func (p *Prometheus) ask(ctx context.Context, expr string, from, to time.Time) ([]series, error) {
	values := url.Values{
		"query": {strings.ReplaceAll(expr, "$__rate_interval", rateInterval)}, "step": {every.String()},
		"start": {strconv.FormatInt(from.Unix(), 10)}, "end": {strconv.FormatInt(to.Unix(), 10)},
	}
	var answer struct {
		Data struct {
			Result []series `json:"result"`
		} `json:"data"`
	}
	if err := p.do(ctx, http.MethodGet, "/api/v1/query_range?"+values.Encode(), &answer); err != nil {
		return nil, err
	}
	for i, s := range answer.Data.Result {
		known := s.Points[:0]
		for _, v := range s.Points {
			if !math.IsNaN(v.value) && !math.IsInf(v.value, 0) {
				known = append(known, v)
			}
		}
		answer.Data.Result[i].Points = known
	}
	return answer.Data.Result, nil
}

func (p *Prometheus) do(ctx context.Context, method, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("prometheus answers %s: %s", answer.Status, bytes.TrimSpace(body))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}
