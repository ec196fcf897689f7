"""The pages that a person looks at: self-contained HTML, nothing loaded from outside.

What is shown was measured and recorded elsewhere (`build.run_record`, `evaluation.profiling`, `faces.curation`); here
it becomes pages, charts and folders. A page holds names that come from files and models, so everything is escaped,
nothing runs, and a browser is told so (`pages.POLICY`). Reports hold pictures of people: they are written apart from
the engines that ship.

May import: everything but `doctor` and `cli`.

Modules, from the ground up:

    svg                 SVG as a tree of elements, written by a serialiser
    images              pictures inside of a page, and how differences are made visible
    pages               templates: escaping, and what a browser is told
    charts              the charts of a build: the front of a search, histograms, the strip of layers
    profile_chart       the chart of a profile, as SVG or as a page
    contact_sheet       a set of faces on one page or picture, from which one sees what is covered
    page                the page of a build, from the record that it left
    runs                reports on the disk: reports/MODEL/TIME
    lineup_markdown     a comparison of engines as Markdown
    module_markdown     the variants of a torch module as Markdown
    lineup_page         the same as a page with faces side by side
    selection           a curated folder on the disk: photos, reasons, coverage, contact sheet

    page.html, contact_sheet.html, profile.html, lineup.html    the templates

Start reading at `page.render_page`: each section of the page is one function there, and one block of `page.html`.
"""
