// SPDX-License-Identifier: Apache-2.0

// Starts the agent as the launchers in LiveKit's starter images do (uv, pnpm): it needs a HOME that holds what the image's build
// put there, and a cache that it can write, and refuses to start without.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

const home = process.env.HOME ?? homedir();
const model = readFileSync(join(home, '.cache', 'models', 'turns.txt'), 'utf8').trim();
const cache = process.env.UV_CACHE_DIR ?? join(home, '.cache', 'uv');
mkdirSync(cache, { recursive: true });
writeFileSync(join(cache, 'CACHEDIR.TAG'), 'Signature: 8a477f597d28d172789f06886806bc55\n');
console.log(`launched as user ${process.getuid()}, HOME ${home}, model ${model}, cache ${cache}`);

await import('./agent.mjs');
