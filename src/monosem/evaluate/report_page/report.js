"use strict";
// The latents of the page: a list that is searched, sorted and filtered, and the card of the one in the address.
// Every text from the data is set as text, never as markup.
(() => {
  const cards = JSON.parse(document.getElementById("data").textContent);
  const byNumber = new Map(cards.map((card) => [card.latent, card]));
  const at = (id) => document.getElementById(id);
  const [list, view, words, sort, certainty, density, count] =
    ["list", "card", "words", "sort", "certainty", "density", "count"].map(at);
  const WAYS = { max: "strongest token", mean: "highest mean", last: "last token" };
  let found = cards;
  let current = null;
  let way = "max";

  const element = (tag, className, ...content) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...content);
    return made;
  };
  const short = (value) => Number(value.toPrecision(3)).toLocaleString("en-US", { maximumSignificantDigits: 3 });
  const percent = (share) => `${short(100 * share)} %`;

  // As the command line's search: no case, no accents, words found from their beginning.
  const fold = (text) =>
    text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^\p{L}\p{N}]+/gu, " ");
  const textOf = (example) => example.pieces.map((piece) => (typeof piece === "string" ? piece : piece[0])).join("");
  const haystack = (card) => {
    if (card.folded === undefined) {
      const sentences = new Set(Object.values(card.examples ?? {}).flat().map(textOf));
      card.folded = ` ${card.latent} ${fold([card.explanation ?? "", ...sentences].join(" "))}`;
    }
    return card.folded;
  };

  // The explanation before the sentences, as on the page of `monosem app`; without words, by number.
  const inside = (card, wanted) => {
    const said = ` ${card.latent} ${fold(card.explanation ?? "")}`;
    return wanted.length && wanted.every((word) => said.includes(` ${word}`)) ? 1 + (card.certainty ?? 0) : 0;
  };
  const orders = {
    best: (card, wanted) => -inside(card, wanted),
    latent: (card) => card.latent,
    certainty: (card) => -(card.certainty ?? -1),
    uncertain: (card) => card.certainty ?? 2,
    dense: (card) => -card.density,
    rare: (card) => card.density,
    score: (card) => -(card.score ?? -1),
  };

  const passes = (card, wanted, [low, high]) => {
    if (certainty.value === "none" ? card.explanation !== undefined : (card.certainty ?? -1) < Number(certainty.value || -1))
      return false;
    if (card.density < low || card.density > high) return false;
    return wanted.every((word) => haystack(card).includes(` ${word}`));
  };

  const row = (card) => {
    const figures = [card.certainty === undefined ? "" : `certainty ${card.certainty.toFixed(2)}`, percent(card.density)];
    const link = element(
      "a", "",
      element("span", "number", String(card.latent)),
      element("span", card.explanation ? "text" : "text none", card.explanation ?? card.reason ?? "no explanation"),
      element("span", "figures-of", figures.filter(Boolean).join(" · ")),
    );
    link.href = `#latent-${card.latent}`;
    if (card.latent === current) link.setAttribute("aria-current", "true");
    return element("li", "", link);
  };

  const update = () => {
    const wanted = fold(words.value).split(" ").filter(Boolean);
    const range = density.value.split(" ").map(Number);
    const key = orders[sort.value];
    found = cards
      .filter((card) => passes(card, wanted, range))
      .sort((a, b) => key(a, wanted) - key(b, wanted) || a.latent - b.latent);
    list.replaceChildren(...found.map(row));
    count.textContent = found.length === 1 ? "1 latent" : `${found.length.toLocaleString("en-US")} latents`;
    mark();
  };

  const mark = () => {
    for (const link of list.querySelectorAll("a")) {
      const here = link.hash === `#latent-${current}`;
      link.toggleAttribute("aria-current", here);
      if (here) {
        link.setAttribute("aria-current", "true");
        const [box, line] = [list.getBoundingClientRect(), link.getBoundingClientRect()];
        if (line.top < box.top || line.bottom > box.bottom) list.scrollTop += line.top - box.top - box.height / 3;
      }
    }
    const [previous, next] = [step(-1), step(1)];
    for (const [name, target] of [["previous", previous], ["next", next]]) {
      const button = at(name);
      if (button) button.disabled = target === undefined;
    }
  };

  // A latent that the filter hides has its neighbours at the ends of the list.
  const step = (by) => {
    const place = found.findIndex((card) => card.latent === current);
    return place < 0 ? found[by > 0 ? 0 : found.length - 1] : found[place + by];
  };
  const go = (card) => card && (location.hash = `latent-${card.latent}`);

  const sentence = (example, highest) => {
    const text = element("div", "sentence");
    for (const piece of example.pieces) {
      if (typeof piece === "string") {
        text.append(piece);
        continue;
      }
      const token = element("mark", "", piece[0]);
      token.style.setProperty("--strength", Math.min(1, piece[1] / highest).toFixed(3));
      token.dataset.value = short(piece[1]);
      text.append(token);
    }
    const body = element("div", "", text);
    if (example.origin) body.append(element("div", "origin", example.origin));
    return element("li", "", element("span", "value", short(example.value)), body);
  };

  const button = (text, act) => {
    const made = element("button", "", text);
    made.type = "button";
    made.addEventListener("click", act);
    return made;
  };

  const facts = (card) => {
    const pairs = [
      ["Certainty", card.certainty?.toFixed(2)],
      ["Said by", card.explanation && card.provider],
      ["Fires on", `${percent(card.density)} of tokens`],
      ["In", `${card.sentences.toLocaleString("en-US")} sentences`],
      ["Largest value", short(card.max)],
      ["Mean value", short(card.mean)],
      ["Output score", card.score === undefined ? undefined : card.score < 0.001 ? "below 0.001" : card.score.toFixed(3)],
    ];
    const shown = pairs.filter(([, value]) => value !== undefined);
    return element("dl", "facts", ...shown.map(([name, value]) =>
      element("div", "", element("dt", "", name), element("dd", "", value))));
  };

  const tokens = (what, spelled) =>
    element("p", "tokens", element("span", "", what), element("span", "", ...spelled.map((token) => element("code", "", token))));

  const examples = (card) => {
    const ways = Object.keys(WAYS).filter((name) => card.examples?.[name]);
    if (!ways.length) return [];
    const chosen = ways.includes(way) ? way : ways[0];
    const buttons = ways.map((name) => {
      const made = button(WAYS[name], () => {
        way = name;
        render();
        view.querySelector(".ways [aria-pressed=true]").focus();
      });
      made.setAttribute("aria-pressed", String(name === chosen));
      return made;
    });
    return [
      element("div", "ways", element("span", "", "Sentences by"), ...buttons),
      element("ol", "examples", ...card.examples[chosen].map((example) => sentence(example, card.max))),
    ];
  };

  const render = () => {
    const card = byNumber.get(current);
    const title = element("h3", "", `Latent ${current}`);
    const [previous, next] = [button("← Previous", () => go(step(-1))), button("Next →", () => go(step(1)))];
    [previous.id, next.id] = ["previous", "next"];
    const bar = element("div", "bar", title, previous, next);
    if (!card) {
      view.replaceChildren(bar, element("p", "none", "It has no card on this page. The command monosem show finds it."));
    } else {
      view.replaceChildren(
        bar,
        element("p", card.explanation ? "says" : "says none", card.explanation ?? card.reason ?? "no explanation"),
        facts(card),
        ...(card.warnings ?? []).map((warning) => element("p", "warning", `⚠ ${warning}`)),
        ...(card.raised ? [tokens("Raises", card.raised)] : []),
        ...(card.lowered ? [tokens("Lowers", card.lowered)] : []),
        ...examples(card),
      );
    }
    mark();
  };

  const follow = (scroll) => {
    const asked = /^#latent-(\d+)$/.exec(location.hash);
    if (!asked && current !== null) return;
    current = asked ? Number(asked[1]) : found[0]?.latent ?? null;
    if (current === null) return;
    render();
    const box = view.getBoundingClientRect();
    if (asked && scroll && (box.top < 0 || box.top > innerHeight * 0.6)) view.scrollIntoView({ block: "start" });
  };

  at("tools").addEventListener("submit", (event) => {
    event.preventDefault();
    go(found[0]);
  });
  for (const control of [words, sort, certainty, density]) control.addEventListener("input", update);
  addEventListener("hashchange", () => follow(true));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const act = { j: () => go(step(1)), k: () => go(step(-1)), "/": () => words.focus() }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  update();
  follow(true);
})();
