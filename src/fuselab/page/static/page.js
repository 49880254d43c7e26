'use strict';
// The page stands without this script. It adds: words beside the pointer, the theme button, links within a frame.
(() => {
  const root = document.documentElement;
  const tip = document.getElementById('tip');

  // A title of SVG shows late, and never for the keyboard: the text moves to where we and screen readers have it.
  for (const title of document.querySelectorAll('svg.chart title')) {
    const owner = title.parentNode;
    owner.setAttribute('data-tip', title.textContent);
    if (owner.localName === 'a') owner.setAttribute('aria-label', title.textContent.replace(/\n/g, ', '));
    title.remove();
  }

  const show = (owner) => {
    tip.textContent = owner.getAttribute('data-tip');
    tip.hidden = false;
    const at = owner.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const middle = at.left + Math.min(at.width, window.innerWidth) / 2;
    const left = Math.max(8, Math.min(middle - own.width / 2, window.innerWidth - own.width - 8));
    const above = at.top - own.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 60 ? above : at.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; };
  const over = (event) => {
    const owner = event.target.closest ? event.target.closest('[data-tip]') : null;
    if (owner) show(owner); else hide();
  };
  document.addEventListener('pointerover', over);
  document.addEventListener('focusin', over);
  document.addEventListener('focusout', hide);
  document.addEventListener('scroll', hide, { passive: true });
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });

  // As the system, light, dark. A frame without an origin has no storage, and then the choice lasts as long as the page.
  const themes = ['', 'light', 'dark'];
  const button = document.getElementById('theme');
  const stored = () => { try { return localStorage.getItem('fuselab-theme') || ''; } catch { return ''; } };
  const apply = (theme) => {
    if (theme) root.setAttribute('data-theme', theme); else root.removeAttribute('data-theme');
    button.textContent = { '': '◐', light: '☀', dark: '☾' }[theme];
    button.setAttribute('aria-label', `Colours: ${theme || 'as the system'}`);
    button.title = `Colours: ${theme || 'as the system'}`;
  };
  let theme = themes.includes(stored()) ? stored() : '';
  apply(theme);
  button.hidden = false;
  button.addEventListener('click', () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    apply(theme);
    try { localStorage.setItem('fuselab-theme', theme); } catch { /* lasts as long as the page */ }
  });

  // What a link leads to may be of the other direction, or folded away.
  const reveal = () => {
    let id = '';
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const target = id && document.getElementById(id);
    if (!target) return;
    for (const direction of ['forward', 'backward']) {
      if (target.closest(`.${direction}`)) document.getElementById(`direction-${direction}`).checked = true;
    }
    for (let at = target; at; at = at.parentElement) if (at.localName === 'details') at.open = true;
    target.scrollIntoView();
  };
  window.addEventListener('hashchange', reveal);
  reveal();

  // In a frame whose document is its srcdoc, "#x" is resolved against the page around it and would lead away from here.
  if (location.protocol === 'about:') {
    document.addEventListener('click', (event) => {
      const link = event.target.closest ? event.target.closest('a') : null;
      const href = link && (link.getAttribute('href') || '');
      if (!href || !href.startsWith('#')) return;
      event.preventDefault();
      location.hash = href;
    });
  }
})();
