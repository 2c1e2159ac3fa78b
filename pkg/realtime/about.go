// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// aboutEvery is how often the model is looked up.
	aboutEvery = 24 * time.Hour
	maxAbout   = 64 << 10 // bytes
)

// about is the answer of GET /models/NAME. It does not affect readiness: a restricted key
// may be allowed to open sessions and not to read models, and a proxy may not know the
// path.
type about struct {
	shutdown time.Time // zero if none is announced
	unseen   bool      // the model is not visible for the key
}

// look asks about a model. Its URL is that of the websocket without the last part.
func (l *line) look(ctx context.Context, key, model string) (about, error) {
	u := *l.url
	u.Scheme = "http" + strings.TrimPrefix(u.Scheme, "ws")
	u.Path, u.RawPath, u.RawQuery = strings.TrimSuffix(u.Path, "/realtime"), "", ""
	target := u.JoinPath("models", url.PathEscape(model))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return about{}, err
	}
	req.Header = l.with(key)
	transport := &http.Transport{
		Proxy: l.proxy, TLSClientConfig: l.trust, ForceAttemptHTTP2: true,
		MaxResponseHeaderBytes: maxAbout, DisableKeepAlives: true,
	}
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the key is not taken elsewhere") },
	}
	resp, err := client.Do(req)
	if err != nil {
		return about{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAbout))
	switch {
	case err != nil:
		return about{}, err
	case resp.StatusCode == http.StatusNotFound:
		var said struct {
			Error problem `json:"error"`
		}
		if json.Unmarshal(body, &said) == nil && said.Error.Code == "model_not_found" {
			return about{unseen: true}, nil
		}
		return about{}, errors.New("no such page")
	case resp.StatusCode != http.StatusOK:
		return about{}, fmt.Errorf("answered %d", resp.StatusCode)
	}
	return parseAbout(body)
}

func parseAbout(body []byte) (about, error) {
	var said struct {
		ID       string  `json:"id"`
		Shutdown *string `json:"shutdown_date"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return about{}, fmt.Errorf("the answer is no model: %w", err)
	}
	if said.ID == "" {
		return about{}, errors.New("the answer names no model")
	}
	if said.Shutdown == nil || *said.Shutdown == "" {
		return about{}, nil
	}
	day, err := time.Parse(time.DateOnly, *said.Shutdown)
	if err != nil {
		return about{}, fmt.Errorf("shutdown_date is no day: %w", err)
	}
	return about{shutdown: day}, nil
}
