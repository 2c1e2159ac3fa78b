// SPDX-License-Identifier: Apache-2.0

// An ordinary MCP server, over streamable HTTP and without sessions: what it knows of a caller is the room.
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { createServer } from 'node:http';
import { z } from 'zod';

const crm = () => {
  const server = new McpServer({ name: 'crm', version: '1.0.0' });
  server.registerTool(
    'caller',
    { description: 'Says who calls', inputSchema: { room: z.string() } },
    async ({ room }) => ({ content: [{ type: 'text', text: `the caller of ${room}` }] }),
  );
  return server;
};

const http = createServer(async (request, response) => {
  const [server, transport] = [crm(), new StreamableHTTPServerTransport({ sessionIdGenerator: undefined })];
  response.on('close', () => server.close());
  try {
    await server.connect(transport);
    await transport.handleRequest(request, response);
  } catch (error) {
    console.error('a request failed:', error);
    if (!response.headersSent) response.writeHead(500);
    response.end();
  }
});

process.on('SIGTERM', () => http.close());
http.listen(Number(process.env.PORT ?? 8000));
