// npm's coinbase-pro: REST, the feed, and OrderbookSync.
import { createRequire } from 'node:module';
import { check, equal, say, sleep, step, given, tradeThroughAKill } from './steps.mjs';

const coinbase = createRequire(given.modules + '/')('coinbase-pro');
const { key, secret, passphrase, product } = given;
const url = given.urls.at(-1), ws = given.ws.at(-1);
const market = new coinbase.PublicClient(url);
const x = new coinbase.AuthenticatedClient(key, secret, passphrase, url);
const WAIT = 20_000;

async function publicCalls() {
  await step('getProducts', async () => check((await market.getProducts()).some((row) => row.id === product)));
  await step('getProductOrderBook', async () => check((await market.getProductOrderBook(product)).bids.length));
  await step('getProductOrderBook(level 3)', async () => check((await market.getProductOrderBook(product, { level: 3 })).sequence));
  await step('getProductTicker', async () => check((await market.getProductTicker(product)).trade_id));
  await step('getProductTrades', async () => check((await market.getProductTrades(product)).length));
  await step('getProductHistoricRates', async () => {
    const [[, , , , close]] = await market.getProductHistoricRates(product, { granularity: 60 });
    check(close === (await market.getProductTicker(product)).price, close);
  });
  await step('getProduct24HrStats', async () => check((await market.getProduct24HrStats(product)).volume));
  await step('getCurrencies', async () => check((await market.getCurrencies()).length));
  await step('getTime', async () => check((await market.getTime()).epoch));
}

async function privateCalls() {
  const accounts = await step('getAccounts', () => x.getAccounts());
  const account = accounts?.find((row) => row.currency === 'USD')?.id ?? 'none';
  await step('getAccount', async () => check((await x.getAccount(account)).balance));
  await step('getAccountHistory', async () => {
    const [fee, sold] = await x.getAccountHistory(account);
    equal([fee.type, fee.amount, sold.type, sold.amount], ['fee', '-0.118', 'match', '59']);
    check(fee.balance === (await x.getAccount(account)).balance, fee.balance);
  });
  await step('getAccountTransfers', async () => equal((await x.getAccountTransfers(account)).map((row) => row.amount), ['1000000000']));
  const limit = { product_id: product, price: '30000', size: '0.01' };
  const rests = await step('placeOrder', () => x.placeOrder({ ...limit, side: 'buy', type: 'limit' }));
  await step('getAccountHolds', async () => {
    const [hold] = await x.getAccountHolds(account);
    equal([hold.ref, hold.amount], [rests.id, (await x.getAccount(account)).hold]);
  });
  await step('buy', () => x.buy({ ...limit, post_only: true }));
  await step('sell(market)', async () => check((await x.sell({ product_id: product, type: 'market', size: '0.01' })).settled));
  await step('buy(market, funds)', () => x.buy({ product_id: product, type: 'market', funds: '500' }));
  await step('getOrder', async () => check((await x.getOrder(rests.id)).status === 'open'));
  await step('getOrders', async () => check((await x.getOrders()).length === 2));
  await step('getOrders(status)', async () => check((await x.getOrders({ status: ['open', 'done'] })).length > 2));
  await step('cancelOrder', async () => check((await x.cancelOrder(rests.id)) === rests.id));
  await step('cancelOrders', async () => check((await x.cancelOrders()).length === 1));
  await step('cancelAllOrders', async () => check(Array.isArray(await x.cancelAllOrders({ product_id: product }))));
  await step('getFills', async () => {
    const fill = (await x.getFills({ product_id: product }))[1];
    const { side, price, size, fee, liquidity } = fill;
    equal([side, price, size, fee, liquidity], ['sell', '59000', '0.01', '1.18', 'T']);
  });
  await step('withdrawCrypto', async () => check((await x.withdrawCrypto({ amount: '1', currency: 'USD', crypto_address: 'a' })).id));
  await step('getTrailingVolume', async () => check(Number((await x.getTrailingVolume())[0].volume) >= 0.01));
}

// Orders that wait for a price, are triggered by a trade, cancelled, or leave by themselves.
const stop = { product_id: product, size: '0.01', stop_price: '60000' };

async function waitingOrders() {
  const loss = await step('placeOrder(limit, stop loss)', () => x.placeOrder({ ...stop, type: 'limit', side: 'sell', price: '58000', stop: 'loss' }));
  const entry = await step('placeOrder(market, stop entry)', () =>
    x.placeOrder({ ...stop, type: 'market', side: 'buy', size: null, funds: '700', stop: 'entry' }));
  const other = await step('placeOrder(stop)', () => x.placeOrder({ ...stop, type: 'stop', side: 'sell', stop: 'loss', stop_price: '100' }));
  await step('getOrders(active)', async () =>
    equal((await x.getOrders({ status: 'active' })).map((row) => row.id), [other.id, entry.id, loss.id]));
  await trade();
  await step('getOrder(triggered)', async () => {
    for (const [order, price] of [[loss, 59000], [entry, 61000]]) {
      const { status, done_reason, executed_value, filled_size } = await x.getOrder(order.id);
      equal([status, done_reason, executed_value / filled_size], ['done', 'filled', price]);
    }
  });
  await step('cancelOrder(waiting)', async () => check((await x.cancelOrder(other.id)) === other.id));
  await step('placeOrder(GTT)', async () => {
    const limit = { product_id: product, type: 'limit', side: 'buy', price: '30000', size: '0.01' };
    const order = await x.placeOrder({ ...limit, time_in_force: 'GTT', cancel_after: 'min' });
    check(order.expire_time > order.created_at, order.expire_time);
    await x.cancelOrder(order.id);
  });
}

async function stopAndCancel() {
  const order = await x.placeOrder({ ...stop, type: 'limit', side: 'sell', price: '58000', stop: 'loss', stop_price: '100' });
  await x.cancelOrder(order.id);
}

function nextMessage(socket, wanted) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('nothing came')), WAIT);
    const seen = (message) => {
      if (wanted(message)) { clearTimeout(timer); socket.off('message', seen); resolve(message); }
    };
    socket.on('message', seen);
    socket.on('error', reject);
  });
}

async function trade() {
  await x.buy({ product_id: product, type: 'market', size: '0.001' });
  await x.sell({ product_id: product, type: 'market', size: '0.001' });
}

async function feed() {
  const channels = ['full', 'ticker', 'level2', 'matches', 'user', 'status'];
  const socket = new coinbase.WebsocketClient([product], ws, { key, secret, passphrase }, { channels });
  const kinds = ['subscriptions', 'snapshot', 'heartbeat', 'status', 'received', 'match', 'done', 'ticker', 'l2update', 'activate'];
  const waits = kinds.map((kind) => step(`WebsocketClient: ${kind}`, () => nextMessage(socket, (message) => message.type === kind)));
  await new Promise((resolve) => socket.once('open', resolve));
  await waits[0];
  await trade();
  await stopAndCancel();
  await Promise.all(waits);
  socket.disconnect();
}

// The library's book, which must equal the server's at the same sequence, after orders through the death of the leader.
async function main() {
  await trade();
  await publicCalls();
  await privateCalls();
  await waitingOrders();
  await feed();
  const problems = [];
  const sync = new coinbase.OrderbookSync([product], url, ws);
  sync.on('error', (error) => problems.push(String(error.message ?? error)));
  let syncs = 0;
  sync.on('sync', () => { syncs += 1; });
  await nextMessage(sync, () => sync._sequences[product] >= 0);
  await x.placeOrder({ ...stop, type: 'limit', side: 'sell', price: '58000', stop: 'loss' });
  await trade();
  await stopAndCancel();
  const place = async (client_oid) =>
    (await x.placeOrder({ product_id: product, side: 'buy', type: 'limit', price: '20000', size: '0.001', client_oid })).id;
  await tradeThroughAKill(place);
  await step('OrderbookSync', async () => {
    const wanted = await market.getProductOrderBook(product, { level: 3 });
    for (let waited = 0; sync._sequences[product] < wanted.sequence && waited < WAIT; waited += 50) await sleep(50);
    check(sync._sequences[product] === wanted.sequence, `${sync._sequences[product]} of ${wanted.sequence}`);
    check(problems.length === 0, problems.join());
    check(syncs === 1, `${syncs} times begun: a gap`);
    const { bids, asks } = sync.books[product].state();
    check(bids.length === wanted.bids.length && asks.length === wanted.asks.length, 'the books differ');
  });
  sync.disconnect();
  say({ end: true });
}

await main();
process.exit(0);
