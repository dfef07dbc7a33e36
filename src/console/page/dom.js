// Builds DOM nodes. Text is always set as text: the page never parses HTML from a string.

/** @typedef {Node | string | number | null | undefined | false | any[]} Child a list may hold lists of children */
/**
 * Attributes of an element. A name that starts with "on" adds a listener, `true` sets an empty attribute; `false`,
 * `null` and `undefined` set nothing.
 * @typedef {{[name: string]: any, onclick?: (event: OnElement<MouseEvent>) => any,
 *   onkeydown?: (event: OnElement<KeyboardEvent>) => any, onfocusin?: (event: OnElement<FocusEvent>) => any,
 *   onsubmit?: (event: SubmitEvent) => any}} Props
 */
/** @template {Event} E @typedef {E & {target: HTMLElement}} OnElement */
/** @template {string} S @typedef {S extends `${infer T}.${string}` ? T : S} TagOf */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Creates an element: `h("a.back", { href }, "Devices")`. The attributes can be left out.
 * @template {string} S
 * @param {S} selector tag and classes
 * @param {...(Props | Child)} rest attributes and children
 * @returns {TagOf<S> extends keyof HTMLElementTagNameMap ? HTMLElementTagNameMap[TagOf<S>] : HTMLElement}
 */
export function h(selector, ...rest) {
  const [tag, ...classes] = selector.split(".");
  return /** @type {any} */ (build(document.createElement(tag), classes, rest));
}

/** @param {string} selector @param {...(Props | Child)} rest @returns {SVGElement} */
export function svg(selector, ...rest) {
  const [tag, ...classes] = selector.split(".");
  return build(/** @type {SVGElement} */ (document.createElementNS(SVG, tag)), classes, rest);
}

/** @template {Element} E @param {E} element @param {string[]} classes @param {any[]} rest @returns {E} */
function build(element, classes, [first, ...children]) {
  element.classList.add(...classes);
  if (first?.constructor !== Object) add(element, [first]);
  else
    for (const [name, value] of Object.entries(first)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "value" && "value" in element) element.value = value;
      else element.setAttribute(name, value === true ? "" : String(value));
    }
  add(element, children);
  return element;
}

/** @param {Element} parent @param {Child[]} children */
function add(parent, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) add(parent, child);
    else parent.append(child instanceof Node ? child : String(child));
  }
}

/** Replaces the children of an element. @param {Element} parent @param {...Child} children */
export function fill(parent, ...children) {
  parent.replaceChildren();
  add(parent, children);
}

/**
 * Makes the children of `parent` those of `items`, in their order. A child with the same key stays in place, so that
 * focus and selection survive.
 * @template T
 * @param {Element} parent
 * @param {T[]} items
 * @param {(item: T) => string} key
 * @param {(item: T) => HTMLElement} create
 * @param {(element: HTMLElement, item: T) => void} update
 */
export function keyed(parent, items, key, create, update) {
  const children = /** @type {HTMLElement[]} */ (Array.from(parent.children));
  const old = new Map(children.map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = old.get(name);
    old.delete(name);
    if (element) update(element, item);
    else {
      element = create(item);
      element.dataset.key = name;
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const gone of old.values()) gone.remove();
}
