// What one would write in an afternoon with Node: @vlasky/zongji, one connection that is kept, the position in a file after
// each event. It waits for no disk, and keeps few of our promises: what a transaction that was killed had sent goes out again.
import { readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { dirname, join } from 'node:path';
import ZongJi from '@vlasky/zongji';

const configPath = process.argv[2];
const config = JSON.parse(readFileSync(configPath, 'utf8'));
const positionPath = join(dirname(configPath), 'position.json');
const position = JSON.parse(readFileSync(positionPath, 'utf8'));
const { host, port, user, password, name } = config.database;
const url = new URL(config.webservice_url);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function post(study) {
  const body = JSON.stringify(study);
  const headers = {
    'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body), 'X-Api-Key': config.key,
  };
  return new Promise((resolve, reject) => {
    const request = http.request(
      { agent, host: url.hostname, port: url.port, path: url.pathname, method: 'POST', headers },
      (answer) => {
        answer.resume();
        answer.on('end', () => (answer.statusCode < 300 ? resolve() : reject(new Error(`${answer.statusCode}`))));
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}

const waiting = [];
let sending = false;

async function drain() {
  if (sending) return;
  sending = true;
  while (waiting.length) {
    const { rows, file, offset } = waiting.shift();
    for (const { id, operation, recorded_at, ...study } of rows) await post({ ...study, center: '000' });
    writeFileSync(positionPath, JSON.stringify({ file, offset }));
  }
  sending = false;
}

const zongji = new ZongJi({ host, port, user, password, dateStrings: true });
zongji.on('error', (error) => { console.error(error); process.exit(1); });
zongji.on('binlog', (event) => {
  if (event.getEventName() !== 'writerows') return;
  waiting.push({ rows: event.rows, file: zongji.options.filename, offset: zongji.options.position });
  drain().catch((error) => { console.error(error); process.exit(1); });
});
zongji.start({
  serverId: 9998,
  filename: position.file,
  position: position.offset,
  includeEvents: ['rotate', 'tablemap', 'writerows', 'xid', 'query'],
  includeSchema: { [name]: ['study_service'] },
});
process.on('SIGTERM', () => process.exit(0));
