'use strict';
const SHOWN = 320;
const NAMES = {
  one: 'one vector', windows: 'windows', queries: 'written queries', words: 'words',
  words_and_queries: 'words', tokens: 'late interaction',
};
const element = (id) => document.getElementById(id);
const [form, query, main, status] = ['form', 'query', 'main', 'status'].map(element);
const lists = { hits: element('hits'), base: element('base') };
const [field, value] = ['field', 'value'].map(element);
let key = '';
let latest = null;
let fields = [];
const asked = new URLSearchParams(location.search);

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle('error', isError);
}

// Texts come from documents: they enter the page as text, never as markup.
function append(parent, text, tag) {
  const child = tag ? document.createElement(tag) : document.createTextNode(text);
  if (tag) child.textContent = text;
  parent.append(child);
  return child;
}

// Ranges count characters; JavaScript's strings count halves of some of them.
function passage(target, hit, whole) {
  const letters = Array.from(hit.text);
  const first = hit.marked.length ? hit.marked[0][0] : 0;
  let start = !whole && first > SHOWN / 2 ? Math.max(0, Math.min(first - SHOWN / 3, letters.length - SHOWN)) : 0;
  start = Math.floor(start);
  while (start > 0 && start < first && letters[start - 1].trim()) start += 1;
  let stop = whole ? letters.length : Math.min(letters.length, start + SHOWN);
  while (stop < letters.length && stop > start + SHOWN - 30 && letters[stop].trim()) stop -= 1;
  const part = (from, to) => letters.slice(from, to).join('');
  target.replaceChildren();
  let done = start;
  if (start > 0) append(target, '… ');
  for (const [from, to] of hit.marked) {
    if (from < done || to > stop) continue;
    append(target, part(done, from));
    append(target, part(from, to), 'mark');
    done = to;
  }
  append(target, part(done, stop));
  if (stop < letters.length) append(target, ' …');
  return start > 0 || stop < letters.length;
}

function bar(share) {
  const space = 'http://www.w3.org/2000/svg';
  const picture = document.createElementNS(space, 'svg');
  picture.setAttribute('aria-hidden', 'true');
  for (const width of [100, Math.max(0, Math.min(100, 100 * share))]) {
    const rectangle = document.createElementNS(space, 'rect');
    rectangle.setAttribute('width', `${width}%`);
    rectangle.setAttribute('height', '4');
    rectangle.setAttribute('rx', '2');
    picture.append(rectangle);
  }
  return picture;
}

// Each part's bar is as long as its share of the most that it gave to a passage of the list.
function parts(target, hit, most) {
  const shares = Object.entries(hit.parts).map(([name, value]) => [name, value, most[name] > 0 ? value / most[name] : 0]);
  const best = shares.length > 1 ? Math.max(...shares.map((one) => one[2])) : Infinity;
  for (const [name, value, share] of shares) {
    const group = document.createElement('div');
    if (share >= best) group.className = 'most';
    append(group, NAMES[name] || name, 'dt');
    append(group, value.toFixed(2), 'dd');
    group.append(bar(share));
    target.append(group);
  }
}

function entry(hit, rank, most, other) {
  const item = element('hit').content.firstElementChild.cloneNode(true);
  const button = item.querySelector('.hit');
  const text = item.querySelector('.text');
  const source = item.querySelector('.source');
  item.querySelector('.rank').textContent = `${rank}.`;
  append(source, hit.document);
  const place = [hit.page ? `page ${hit.page}` : '', hit.heading].filter(Boolean).join(' · ');
  if (place) append(source, ` · ${place}`, 'span');
  const isCut = passage(text, hit, false);
  if (!isCut) button.removeAttribute('aria-expanded');
  button.addEventListener('click', () => {
    if (!isCut) return;
    const open = button.getAttribute('aria-expanded') !== 'true';
    button.setAttribute('aria-expanded', String(open));
    passage(text, hit, open);
  });
  item.querySelector('.other').textContent = other;
  parts(item.querySelector('.parts'), hit, most);
  return item;
}

function fill(name, hits, others, words) {
  const most = {};
  for (const hit of hits) for (const [part, value] of Object.entries(hit.parts)) most[part] = Math.max(most[part] || 0, value);
  const places = new Map(others.map((hit, place) => [hit.passage_id, place + 1]));
  lists[name].replaceChildren(...hits.map((hit, place) => {
    const rank = places.get(hit.passage_id);
    return entry(hit, place + 1, most, rank ? `${words} has it at ${rank}` : `not among the first ${others.length} of ${words}`);
  }));
}

function show(answer, took) {
  const { hits, base } = answer;
  fill('hits', hits, base, 'the base');
  fill('base', base, hits, 'this index');
  main.classList.toggle('filled', hits.length + base.length > 0);
  element('sides').hidden = hits.length + base.length === 0;
  const shared = hits.filter((hit) => base.some((one) => one.passage_id === hit.passage_id)).length;
  say(hits.length ? `${hits.length} passages in ${Math.max(1, Math.round(took))} ms; the base finds ${shared} of them`
    : 'No passage was found.');
}

async function failure(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

async function search() {
  const text = query.value.trim();
  if (latest) latest.abort();
  latest = null;
  const wanted = filter();
  const narrowed = wanted ? `&f=${encodeURIComponent(JSON.stringify(wanted))}` : '';
  history.replaceState(null, '', text ? `?q=${encodeURIComponent(text)}${narrowed}` : location.pathname);
  document.title = text ? `${text} – Search` : 'Search';
  if (!text) {
    say('Type a question first.');
    query.focus();
    return;
  }
  const mine = latest = new AbortController();
  main.setAttribute('aria-busy', 'true');
  say('Searching …');
  const started = performance.now();
  try {
    const answer = await fetch('search', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) },
      body: JSON.stringify({ query: text, k: 10, base: true, ...(wanted ? { filter: wanted } : {}) }),
      signal: mine.signal,
    });
    if (answer.ok) {
      show(await answer.json(), performance.now() - started);
    } else if (answer.status === 401) {
      say(key ? 'That key is not the one.' : 'The search needs a key.', true);
      element('key-form').hidden = false;
      element('key').focus();
    } else {
      say(await failure(answer), true);
    }
  } catch (error) {
    if (error.name === 'AbortError') return;
    say('The server can’t be reached. Is it still running?', true);
  }
  if (latest === mine) main.removeAttribute('aria-busy');
}

function visible(list) {
  return [...list.querySelectorAll('.hit')].filter((hit) => hit.offsetParent !== null);
}

function turn(side) {
  main.dataset.side = side;
  for (const button of element('sides').children) button.setAttribute('aria-pressed', String(button.dataset.side === side));
}

// Arrows: from the input to the first passage, from passage to passage, and between the lists at the same rank.
function move(event) {
  const hit = document.activeElement.closest('.hit');
  const list = hit ? hit.closest('ol') : visible(lists.hits).length ? lists.hits : lists.base;
  const place = hit ? visible(list).indexOf(hit) : -1;
  let target = null;
  if (event.key === 'ArrowDown') target = visible(list)[place + 1];
  else if (!hit) return;
  else if (event.key === 'ArrowUp') target = place > 0 ? visible(list)[place - 1] : query;
  else {
    const side = event.key === 'ArrowRight' ? 'base' : 'hits';
    turn(side);
    const others = visible(lists[side]);
    target = others[Math.min(place, others.length - 1)];
  }
  event.preventDefault();
  if (!target) return;
  target.focus({ preventScroll: true });
  (target === query ? document.body : target.closest('li')).scrollIntoView({ block: target === query ? 'start' : 'nearest' });
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = document.activeElement.matches('input, select');
  if (event.key === '/' && !typing) {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === 'ArrowDown' && document.activeElement === query) move(event);
  else if (event.key.startsWith('Arrow') && !typing) move(event);
});
form.addEventListener('submit', (event) => { event.preventDefault(); search(); });
element('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  key = element('key').value.trim();
  element('key').value = '';
  element('key-form').hidden = true;
  about();
  listFields().then(search);
});
field.addEventListener('change', () => { offer(); if (query.value.trim()) search(); });
value.addEventListener('change', () => { if (query.value.trim()) search(); });
for (const button of element('sides').children) button.addEventListener('click', () => turn(button.dataset.side));

// The filter: one field with one value, among those that the server lists for this key.
function filter() {
  if (!field.value || value.selectedIndex < 0) return null;
  return { [field.value]: JSON.parse(value.value) };
}

function option(target, text, held) {
  append(target, text, 'option').value = held;
}

function offer() {
  const chosen = fields.find((one) => one.name === field.value);
  value.hidden = !chosen;
  value.replaceChildren();
  for (const one of chosen ? chosen.values : []) {
    option(value, `${one.value === '' ? '(the top)' : one.value} (${one.passages.toLocaleString('en')})`, JSON.stringify(one.value));
  }
  if (chosen && !chosen.complete) {
    option(value, '… and rarer ones', '');
    value.lastChild.disabled = true;
  }
}

async function listFields() {
  const answer = await fetch('fields', { headers: key ? { authorization: `Bearer ${key}` } : {} }).catch(() => null);
  if (!answer || !answer.ok) return;
  const listed = (await answer.json()).fields;
  fields = listed.filter((one) => one.values.length > 1 || (one.values.length === 1 && !one.complete));
  field.replaceChildren();
  option(field, 'anything', '');
  for (const one of fields) option(field, `${one.name} is`, one.name);
  element('filter').hidden = fields.length === 0;
  if (!asked.get('f')) return offer();
  try {
    const [[name, held]] = Object.entries(JSON.parse(asked.get('f')));
    field.value = fields.some((one) => one.name === name) ? name : '';
    offer();
    if (field.value) value.value = JSON.stringify(held);
  } catch {
    offer();
  }
}

async function about() {
  const answer = await fetch('info', { headers: key ? { authorization: `Bearer ${key}` } : {} }).catch(() => null);
  if (!answer || !answer.ok) return;
  const { index, served_model_name: name } = await answer.json();
  element('about').textContent = `${index.passages.toLocaleString('en')} passages, model ${name}`;
}

async function start() {
  const health = await fetch('health').catch(() => null);
  if (!health || !health.ok) {
    say('The server is warming up; the search opens by itself.');
    setTimeout(start, 1000);
    return;
  }
  say('');
  about();
  await listFields();
  if (latest) return;
  query.value = query.value || asked.get('q') || '';
  if (query.value.trim()) search();
}
start();
