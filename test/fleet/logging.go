// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"log/slog"
	"sync"

	"github.com/go-logr/logr"
	protologger "github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
)

// silenceSDK replaces the SDK's default logger, a package variable without a lock, once per test binary.
// Rooms that the fleet creates have their own logger.
var silenceSDK = sync.OnceFunc(func() { //nolint:gochecknoglobals // the logger it replaces is global too
	lksdk.SetLogger(protologger.LogRLogger(logr.Discard()))
})

// sdkLogger passes everything the LiveKit SDK and pion say to log, at Debug.
func sdkLogger(log *slog.Logger) protologger.Logger {
	return protologger.LogRLogger(logr.FromSlogHandler(demoted{log.Handler()}))
}

// demoted logs every record as Debug. It checks the level itself, because logr does not before it logs an
// error.
type demoted struct{ slog.Handler }

func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	if !d.Enabled(ctx, slog.LevelDebug) {
		return nil
	}
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

func (d demoted) WithGroup(name string) slog.Handler {
	return demoted{d.Handler.WithGroup(name)}
}
