// npm's coinbase-pro-node: REST and the feed.
import { check, equal, say, step, given, tradeThroughAKill } from './steps.mjs';

const { CoinbasePro, WebSocketEvent } = await import(`${given.modules}/coinbase-pro-node/dist/index.js`);
const { product } = given;
const settings = { apiKey: given.key, apiSecret: given.secret, passphrase: given.passphrase };
const x = new CoinbasePro({ ...settings, httpUrl: given.urls.at(-1), wsUrl: given.ws.at(-1) });
const { rest } = x;
const WAIT = 20_000;

async function publicCalls() {
  await step('product.getProducts', async () => check((await rest.product.getProducts()).some((row) => row.id === product)));
  await step('product.getProduct', async () => check((await rest.product.getProduct(product)).id === product));
  for (const level of [1, 2, 3]) {
    await step(`product.getProductOrderBook(level ${level})`, async () =>
      check((await rest.product.getProductOrderBook(product, { level })).bids.length));
  }
  await step('product.getProductTicker', async () => check((await rest.product.getProductTicker(product)).trade_id));
  await step('product.getProductStats', async () => check((await rest.product.getProductStats(product)).volume));
  await step('product.getTrades', async () => check((await rest.product.getTrades(product)).data.length));
  await step('product.getTrades(limit, after)', async () => {
    const page = await rest.product.getTrades(product, { limit: 1 });
    check(page.data.length === 1 && page.pagination.after);
  });
  await step('product.getCandles', async () => {
    const close = (await rest.product.getCandles(product, { granularity: 60 })).at(-1).close;
    check(Number(close) === Number((await rest.product.getProductTicker(product)).price), close);
  });
  await step('currency.listCurrencies', async () => check((await rest.currency.listCurrencies()).length));
  await step('time.getTime', async () => check((await rest.time.getTime()).epoch));
}

function isBought({ data: [fill] }, order) {
  const { order_id, side, price, size, fee, liquidity } = fill;
  equal([order_id, side, price, size, fee, liquidity], [order.id, 'buy', '61000', '0.01', '1.22', 'T']);
}

async function privateCalls() {
  const accounts = await step('account.listAccounts', () => rest.account.listAccounts());
  const account = accounts?.find((row) => row.currency === 'USD')?.id ?? 'none';
  await step('account.getAccount', async () => check((await rest.account.getAccount(account)).balance));
  await step('account.getAccountHistory', async () => {
    const [fee, sold] = (await rest.account.getAccountHistory(account)).data;
    equal([fee.type, fee.amount, sold.type, sold.amount], ['fee', '-0.118', 'match', '59']);
    check(fee.balance === (await rest.account.getAccount(account)).balance, fee.balance);
  });
  await step('fee.getCurrentFees', async () => check((await rest.fee.getCurrentFees()).maker_fee_rate));
  await step('profile.listProfiles', async () => check((await rest.profile.listProfiles()).length));
  await step('profile.getProfile', async () => check((await rest.profile.getProfile(accounts[0].profile_id)).id));
  await step('profile.transferFunds', async () => {
    const before = (await rest.account.getAccount(account)).balance;
    await rest.profile.transferFunds({ from: accounts[0].profile_id, to: 'trader-006', currency: 'USD', amount: '1.5' });
    equal(Number(before) - Number((await rest.account.getAccount(account)).balance), 1.5);
  });
  await step('user.verifyAuthentication', async () => check((await rest.user.verifyAuthentication()).id));
  await step('user.getTrailingVolume', async () => {
    const [{ product_id, volume }] = await rest.user.getTrailingVolume();
    equal([product_id, volume], [product, '0.002']);
  });
  const limit = { product_id: product, side: 'buy', type: 'limit', price: '30000', size: '0.01' };
  const rests = await step('order.placeOrder(limit)', () => rest.order.placeOrder(limit));
  await step('account.getHolds', async () => {
    const [hold] = (await rest.account.getHolds(account)).data;
    equal([hold.ref, hold.amount], [rests.id, (await rest.account.getAccount(account)).hold]);
  });
  let order;
  await step('order.placeOrder(market)', async () => {
    order = await rest.order.placeOrder({ product_id: product, side: 'buy', type: 'market', size: '0.01' });
    check(order.settled);
  });
  await step('order.getOrder', async () => check((await rest.order.getOrder(rests.id)).status === 'open'));
  await step('order.getOrder(unknown)', async () => check((await rest.order.getOrder('00000000-0000-0000-0000-00000fffffff')) === null));
  await step('order.getOrders', async () => check((await rest.order.getOrders()).data.length === 1));
  await step('order.cancelOrder', async () => check((await rest.order.cancelOrder(rests.id, product)) === rests.id));
  await step('order.cancelOpenOrders', async () => check((await rest.order.cancelOpenOrders(product)).length === 0));
  await step('fill.getFillsByProductId', async () => isBought(await rest.fill.getFillsByProductId(product), order));
  await step('fill.getFillsByOrderId', async () => isBought(await rest.fill.getFillsByOrderId(order.id), order));
  await step('transfer.getTransfers', async () => {
    const transfers = await rest.transfer.getTransfers('deposit');
    check((transfers.data ?? transfers).some((row) => row.currency === 'USD' && row.amount === '1000000000'));
  });
  await step('withdraw.withdrawToCryptoAddress', async () => check((await rest.withdraw.withdrawToCryptoAddress('1', 'USD', 'a')).id));
}

// Orders that wait for a price, are triggered by a trade, cancelled, or leave by themselves.
const stop = { product_id: product, size: '0.01', stop_price: '60000' };

async function waitingOrders() {
  const loss = await step('order.placeOrder(limit, stop loss)', () =>
    rest.order.placeOrder({ ...stop, type: 'limit', side: 'sell', price: '58000', stop: 'loss' }));
  const entry = await step('order.placeOrder(market, stop entry)', () =>
    rest.order.placeOrder({ ...stop, type: 'market', side: 'buy', size: undefined, funds: '700', stop: 'entry' }));
  const other = await step('order.placeOrder(market, stop loss)', () =>
    rest.order.placeOrder({ ...stop, type: 'market', side: 'sell', stop: 'loss', stop_price: '100' }));
  await step('order.getOrders(active)', async () =>
    equal((await rest.order.getOrders({ status: ['active'] })).data.map((row) => row.id), [other.id, entry.id, loss.id]));
  await trade();
  await step('order.getOrder(triggered)', async () => {
    for (const [order, price] of [[loss, 59000], [entry, 61000]]) {
      const { status, done_reason, executed_value, filled_size } = await rest.order.getOrder(order.id);
      equal([status, done_reason, executed_value / filled_size], ['done', 'filled', price]);
    }
  });
  await step('order.cancelOrder(waiting)', async () => check((await rest.order.cancelOrder(other.id, product)) === other.id));
  await step('order.placeOrder(GTT)', async () => {
    const limit = { product_id: product, type: 'limit', side: 'buy', price: '30000', size: '0.01' };
    const order = await rest.order.placeOrder({ ...limit, time_in_force: 'GTT', cancel_after: 'day' });
    check(order.expire_time > order.created_at, order.expire_time);
    await rest.order.cancelOrder(order.id, product);
  });
}

function event(name, wanted = () => true) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('nothing came')), WAIT);
    x.ws.on(name, (message) => {
      if (wanted(message)) { clearTimeout(timer); resolve(message); }
    });
  });
}

async function trade() {
  for (const side of ['buy', 'sell']) await rest.order.placeOrder({ product_id: product, side, type: 'market', size: '0.001' });
}

// Every event of the product through the death of the leader: the sequence has neither a gap nor a repetition.
const sequences = [];

async function feed() {
  x.ws.on(WebSocketEvent.ON_MESSAGE, (message) => {
    if (['received', 'open', 'match', 'change', 'done', 'activate'].includes(message.type)) sequences.push(message.sequence);
  });
  const waits = [
    step('ws: subscriptions', () => event(WebSocketEvent.ON_SUBSCRIPTION_UPDATE)),
    step('ws: level2 snapshot', () => event(WebSocketEvent.ON_MESSAGE_L2SNAPSHOT)),
    step('ws: level2 update', () => event(WebSocketEvent.ON_MESSAGE_L2UPDATE)),
    step('ws: ticker', () => event(WebSocketEvent.ON_MESSAGE_TICKER)),
    step('ws: matches', () => event(WebSocketEvent.ON_MESSAGE_MATCHES, (message) => message.type === 'match')),
    step('ws: status', () => event(WebSocketEvent.ON_MESSAGE_STATUS)),
    step('ws: heartbeat', () => event(WebSocketEvent.ON_MESSAGE, (message) => message.type === 'heartbeat')),
    step('ws: activate', () => event(WebSocketEvent.ON_MESSAGE_FULL_ACTIVATE, (message) => message.stop_type === 'loss' && message.private)),
    step('ws: user', () => event(WebSocketEvent.ON_MESSAGE, (message) => message.user_id && message.type === 'received')),
  ];
  const names = ['full', 'level2', 'ticker', 'matches', 'status', 'heartbeat', 'user'];
  x.ws.on(WebSocketEvent.ON_OPEN, () => x.ws.subscribe(names.map((name) => ({ name, product_ids: [product] }))));
  x.ws.connect();
  await waits[0];
  await trade();
  const order = await rest.order.placeOrder({ ...stop, type: 'limit', side: 'sell', price: '58000', stop: 'loss', stop_price: '100' });
  await rest.order.cancelOrder(order.id, product);
  await Promise.all(waits);
}

async function main() {
  await trade();
  await publicCalls();
  await privateCalls();
  await waitingOrders();
  await feed();
  const order = { product_id: product, side: 'buy', type: 'limit', price: '20000', size: '0.001' };
  await tradeThroughAKill(async (client_oid) => (await rest.order.placeOrder({ ...order, client_oid })).id);
  await step('ws: sequence through the kill', () => {
    for (let place = 1; place < sequences.length; place++) {
      check(sequences[place] === sequences[place - 1] + 1, `${sequences[place - 1]} then ${sequences[place]}`);
    }
  });
  x.ws.disconnect();
  say({ end: true });
}

await main();
process.exit(0);
